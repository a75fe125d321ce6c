"""Names and constants of the source by their dotted path, read without importing it.

The documents name modules that import torch; a test of documents should not.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "schemas",
    "pipeline",
    "edge_nodes",
    "cloud_workers",
    "simulation",
    "analysis",
    "training",
    "latentbus",
    "broker_config",
)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def module_of(dotted: str) -> tuple[Path, list[str]] | None:
    """The source file that a dotted path begins with, and the names that are left."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate, parts[length:]
    return None


def find(dotted: str) -> ast.AST | None:
    """The definition of a module, class, function, constant or field; None if there is none."""
    found = module_of(dotted)
    if found is None:
        return None
    path, names = found
    node: ast.AST = parse(path)
    for name in names:
        inside = next((child for child in getattr(node, "body", ()) if name in names_of(child)), None)
        if inside is None:
            return None
        node = inside
    return node


def names_of(node: ast.AST) -> set[str]:
    """Names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    if isinstance(node, ast.ImportFrom):  # what a package hands on
        return {alias.asname for alias in node.names if alias.asname == alias.name}
    return set()


def value(dotted: str) -> Any:
    """The value of a constant or of a field's default, if it is a literal, a sum or product, or another such name.

    Raises:
        LookupError: no such name, or no such value.
    """
    node = find(dotted)
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        raise LookupError(f"{dotted} is no constant with a value")
    module = dotted
    while (found := module_of(module)) is None or found[1]:
        module = module.rpartition(".")[0]
    return _evaluate(node.value, module)


def _evaluate(node: ast.expr, module: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return value(f"{_origin(node.id, module)}.{node.id}")
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, module), _evaluate(node.right, module)
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Add):
            return left + right
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Field":
        default = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), None)
        if default is not None:
            return _evaluate(default, module)
    if isinstance(node, ast.Dict):
        return {
            ast.unparse(key): _evaluate(item, module) for key, item in zip(node.keys, node.values, strict=True) if key
        }
    raise LookupError(f"{ast.unparse(node)} in {module} is no plain value")


def _origin(name: str, module: str) -> str:
    """The module that a name in a module comes from."""
    path, _ = module_of(module) or (None, ())
    imports = (node for node in (parse(path).body if path else ()) if isinstance(node, ast.ImportFrom))
    found = (node.module for node in imports if any(alias.name == name for alias in node.names))
    return next(found, None) or module


def constants(package: str) -> dict[str, ast.stmt]:
    """Constants of all modules of a package by dotted path."""
    found: dict[str, ast.stmt] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in parse(path).body:
            for name in names_of(node):
                if name.isupper():
                    found[f"{module}.{name}"] = node
    return found
