"""Training, calibration and rate-accuracy evaluation."""
