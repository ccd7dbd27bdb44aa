"""Where code runs: the device, and several processes that share the work."""
