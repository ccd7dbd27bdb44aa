"""Training the decoder: data, batches, the loop, and cross-entropy."""
