"""Where in the text each latent is active: fragments, what one streaming pass gathers, statistics, the database."""
