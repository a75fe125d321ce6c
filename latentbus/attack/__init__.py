"""``latentbus attack``: attacks on a secured fleet of real processes that the command starts itself."""
