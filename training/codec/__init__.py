"""Codecs for a frozen vision-language model: calibrate, train, export, measure; thresholds of the stop rule."""
