"""`scenes`: pictures of coloured shapes, drawn from a seed, with captions that are checked against the scene."""
