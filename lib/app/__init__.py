"""Caption your own images: the command `caption`, the local demo page, and the class `Captioner`."""
