"""A codec for a model and pictures of one's own: one command, on a CPU, in minutes."""
