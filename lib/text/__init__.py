"""Convert captions to tokens, and tokens to ids."""
