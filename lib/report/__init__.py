"""Draw the plots, the gallery, and the HTML page of a run."""
