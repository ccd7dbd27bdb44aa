"""Teaching: the decoder, and the backbone where it is fitted here."""
