"""One thin module per DVC stage: read params, call lib, write outputs."""
