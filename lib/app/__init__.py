"""Commands for people: caption a photo of one's own, at the command line or on a local web page."""
