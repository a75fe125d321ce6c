"""``latentbus doctor``: what a process needs, looked at one by one, each with its fix."""
