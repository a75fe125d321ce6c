"""Whether this device can do what its settings ask of an edge: ``latentbus edge --check``."""
