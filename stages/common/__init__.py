"""What several stages and tools use: paths, the entry point, and files of metrics/."""
