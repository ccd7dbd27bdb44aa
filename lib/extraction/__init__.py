"""Images -> features, by threads, processes or a Ray cluster."""
