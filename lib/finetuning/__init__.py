"""Sampling, the CIDEr-D reward, and self-critical training."""
