"""Rendered camera scenes and video with ground truth and questions."""
