"""Pages over the feature database of a run, served on this machine: rating by people."""
