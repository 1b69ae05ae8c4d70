"""The page on which people rate latents, blind, and the session behind it."""
