"""Calibrate the stop rule of a codec, and check what it promises."""
