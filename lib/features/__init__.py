"""The feature store and its principal components."""
