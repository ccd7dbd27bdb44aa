"""Feature shards on disk, and PCA."""
