"""Measure codecs and baselines on held-out frames and on video."""
