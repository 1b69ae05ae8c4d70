"""What the pages do with the model itself: read a text, change latents, steer. Nothing is loaded before it is asked."""
