"""Docstrings below the fields of classes, which Python itself drops.

Pydantic can collect them at import time; reading the source only where they are wanted keeps that cost out of every
process.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from itertools import chain
from types import ModuleType


def field_docstrings(modules: Iterable[ModuleType]) -> dict[tuple[str, str], str]:
    """What stands below each annotated field of each class, in one line, by class and field name."""
    found: dict[tuple[str, str], str] = {}
    for node in chain.from_iterable(ast.parse(inspect.getsource(module)).body for module in modules):
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                value = text.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[node.name, field.target.id] = " ".join(inspect.cleandoc(value.value).split())
    return found
