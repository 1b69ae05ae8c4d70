"""Searching the latents of a run: words, names of punctuation, tokens, rules and texts."""
