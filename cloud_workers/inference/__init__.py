"""The inference seam: visual features and questions in, answers out, whatever runs the model and wherever it runs."""
