"""Reading images, the CNN, and running the one over the other."""
