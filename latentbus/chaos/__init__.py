"""Chaos on real processes: faults aimed at whoever owns unfinished questions, and books that must balance."""
