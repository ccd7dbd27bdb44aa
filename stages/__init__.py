"""One thin module per DVC stage. It reads the params, calls lib, and writes the outputs."""
