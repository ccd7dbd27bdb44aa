"""Reported next to the scores: confidence intervals, caption statistics, METEOR and SPICE."""
