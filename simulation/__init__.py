"""Deterministic simulation: the real protocol machines on a virtual clock, a model of the broker, and seeded faults."""
