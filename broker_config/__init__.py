"""The broker: configuration for production, and a launcher of a private local one for demo, tests and benchmarks."""
