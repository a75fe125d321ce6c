"""What edge and worker share: protocol machines, bus, codec, scenes, simulation, settings, logs, metrics."""
