"""Commands for people: caption a photo of one's own."""
