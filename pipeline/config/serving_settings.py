"""How a worker's model is run."""

from __future__ import annotations

from typing import Literal, TypeAlias

ModelPrecision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""Arithmetic of a model in this process."""
