"""Images, preprocessing and CNN backbones."""
