"""The edge: cameras in, ordered latents out. Nothing here, even indirectly, imports torch or transformers."""
