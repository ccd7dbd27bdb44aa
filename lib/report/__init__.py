"""Curves, galleries, and the page that shows them."""
