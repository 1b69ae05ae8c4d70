"""Features in the formats of other tools: written for SAEDashboard and Neuronpedia, explanations read back."""
