"""Chaos on real processes: faults aimed at whoever owns unfinished questions, and a ledger that must balance."""
