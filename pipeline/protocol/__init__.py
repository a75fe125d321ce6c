"""Sans-I/O state machines of edge and worker: messages and the time go in, effects come out."""
