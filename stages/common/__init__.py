"""Code that several stages and tools share, such as paths, the entry point, and reading files of metrics/."""
