"""The cloud side: prefix decoder, VLM adapter, micro-batches and the worker process."""
