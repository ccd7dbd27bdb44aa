"""The library: everything that the stages call, importable without DVC."""
