"""What would have been: recorded work through the simulator, with another uplink, pool or policy."""
