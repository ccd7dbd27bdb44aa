"""Results beside the scores: confidence intervals, caption statistics, METEOR and SPICE."""
