"""Errors, files, scratch folders, worker processes, tables and zips: what every room uses."""
