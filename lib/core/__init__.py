"""Code that all other packages use: errors, files, scratch folders, worker processes, tables and archives."""
