"""Replay of a recorded log: verbatim, or as virtual cameras."""
