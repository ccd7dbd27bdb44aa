"""Training a CNN on the words of captions."""
