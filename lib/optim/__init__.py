"""The optimiser, its schedule, the moving average of weights, and checkpoints."""
