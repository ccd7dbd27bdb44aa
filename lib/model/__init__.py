"""The decoder, which predicts the words of a caption from an image's features, and the decoding methods."""
