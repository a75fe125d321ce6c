"""The skeleton of a process: start, readiness, tasks, containment, drain, metrics, its own log."""
