"""The decoder that turns an image's features into words, and the ways of decoding with it."""
