"""Training a CNN on the phrases of captions."""
