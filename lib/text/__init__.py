"""Captions to tokens, and tokens to ids."""
