"""Benchmarks that an operator can run on the machine that shall do the work."""
