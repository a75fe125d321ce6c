"""The change gate of a codec: clips of fixed cameras, what is compared, and the limits that keep a risk."""
