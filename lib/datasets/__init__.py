"""Where images and captions come from."""
