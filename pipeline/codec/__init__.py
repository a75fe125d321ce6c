"""The latent codec: ordered latents of integers, their tables and bitstream, and the two codecs that make them.

What the edge imports (`spec`, `tables`, `bitstream`, `latent`, `bundled`) needs numpy and constriction only. Modules
whose name ends in ``_torch`` need torch; only the cloud and the training import them.
"""
