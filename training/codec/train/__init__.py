"""A Meta AutoEncoder for a model and pictures of one's own: one command, resumable, on one device or several."""
