"""Options and settings of the command line, and what can be wrong with them."""
