"""MCAP logs of a fleet's traffic: record, recover, inspect, replay, compare."""
