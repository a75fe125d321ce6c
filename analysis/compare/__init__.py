"""Two logs of one work against each other."""
