"""Brokers on the command line: which one, its rules, what it retains, a private one."""
