"""What of a log is played again, when, and under which names."""
