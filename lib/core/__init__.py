"""Errors, files, work in progress, worker processes, tables and zips: what every room uses."""
