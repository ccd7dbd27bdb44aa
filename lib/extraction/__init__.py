"""Images to features, by threads, processes or a Ray cluster."""
