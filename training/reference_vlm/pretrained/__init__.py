"""The third reference VLM: a vision tower that starts from ImageNet, and a language model that is taught to compare."""
