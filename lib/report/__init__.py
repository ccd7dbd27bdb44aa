"""Plots, the gallery, and the page that shows them."""
