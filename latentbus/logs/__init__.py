"""Logs on the command line: recorded, inspected and compared."""
