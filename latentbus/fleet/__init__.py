"""Fleets on one machine: real processes on a private broker, and one ledger of what they were asked."""
