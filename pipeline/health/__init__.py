"""What is wrong with a fleet or with one process, judged without clock, socket or disk."""
