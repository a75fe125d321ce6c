"""A vLLM server as a backend: prompts go as embeddings over HTTP, answers come with log-probabilities."""
