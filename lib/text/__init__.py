"""From captions to tokens, and from tokens to ids."""
