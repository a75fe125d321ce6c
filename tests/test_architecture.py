"""What may import what, and what a process loads: the rules that keep the edge small and the protocol pure."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["importlinter"]["root_packages"]
CONTRACTS: list[str] = [contract["name"] for contract in PROJECT["tool"]["importlinter"]["contracts"]]

ROOMS = (
    "schemas",
    "pipeline.protocol",
    "pipeline.codec",
    "pipeline.config",
    "pipeline.bus",
    "pipeline.recording",
    "pipeline.node",
    "edge_nodes | cloud_workers | simulation | analysis",
    "training",
    "latentbus",
)
"""Each may import those before it; those in one line do not import each other."""

HEAVY = ("torch", "transformers", "tokenizers", "onnx", "onnxscript")
"""What an edge machine has not installed."""

VIOLATIONS = {
    "Imports go one way": ("pipeline/node/upward.py", "import cloud_workers"),
    "Rooms of the pipeline import only those below them": ("pipeline/codec/upward.py", "import pipeline.bus.base"),
    "Schemas know no event loop, no model, no broker": ("schemas/looping.py", "import asyncio"),
    "Protocol machines have no clock, no socket, no log": ("pipeline/protocol/timed.py", "import time"),
    "Only the bus knows the MQTT client": ("cloud_workers/direct.py", "import paho.mqtt.client"),
    "The edge carries no torch": ("edge_nodes/detour.py", "import pipeline.node.heavy"),
    "The broker launcher stands on the schemas alone": ("broker_config/upward.py", "import pipeline"),
    "Codecs are measured by rooms above those that make them and calibrate them": (
        "training/codec/fit/upward.py",
        "import training.codec.evaluate",
    ),
    "Baselines know no codec of ours": ("training/baselines/curious.py", "import pipeline.codec.tables"),
}
"""A file that breaks each contract. The edge's one breaks it indirectly, through ``pipeline/node/heavy.py``."""


def copy_packages(folder: Path) -> None:
    """All packages with their contracts, to break them there."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def lint_imports(folder: Path) -> str:
    """The report of import-linter on the packages in a folder."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def loaded_after(code: str, *names: str) -> set[str]:
    """Which of some top-level modules a fresh interpreter has loaded after running some code."""
    script = f"{code}\nimport sys\nprint('loaded:', *sorted({set(names)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


def modules(package: str) -> dict[str, ast.Module]:
    """Every module of a package, parsed."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_bytes())
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def top_level_imports(tree: ast.Module) -> set[str]:
    """Modules that are imported when this one is, ``if TYPE_CHECKING`` and functions left out."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_import_contracts_hold() -> None:
    report = lint_imports(ROOT)

    assert [name for name in CONTRACTS if f"{name} KEPT" not in report] == [], report


def test_import_contracts_see_a_violation_of_each(tmp_path: Path) -> None:
    assert list(VIOLATIONS) == CONTRACTS
    copy_packages(tmp_path)
    (tmp_path / "pipeline" / "node" / "heavy.py").write_text("import torch\n", encoding="utf-8")
    for name, line in VIOLATIONS.values():
        (tmp_path / name).write_text(f"{line}\n", encoding="utf-8")

    report = lint_imports(tmp_path)

    assert [name for name in CONTRACTS if f"{name} BROKEN" not in report] == [], report
    assert "edge_nodes.detour" in report


def test_every_room_is_kept_from_the_one_above_it_and_from_its_siblings(tmp_path: Path) -> None:
    forbidden = [
        (low, high) for lower, upper in pairwise(ROOMS) for low in lower.split(" | ") for high in upper.split(" | ")
    ]
    forbidden += [pair for room in ROOMS for pair in permutations(room.split(" | "), 2)]
    forbidden += [("pipeline.scenes", "pipeline.protocol"), ("pipeline.protocol", "pipeline.scenes")]
    copy_packages(tmp_path)
    for low, high in forbidden:
        name = f"imports_{high.replace('.', '_')}.py"
        tmp_path.joinpath(*low.split("."), name).write_text(f"import {high}\n", encoding="utf-8")
    (tmp_path / "pipeline" / "loose.py").touch()

    report = lint_imports(tmp_path)

    assert [
        (low, high) for low, high in forbidden if f"{low}.imports_{high.replace('.', '_')} -> {high}" not in report
    ] == [], report
    assert "loose" in report, "a module that is in no room of the pipeline"


def test_an_edge_process_loads_no_model_library() -> None:
    everything = (
        "import importlib, pkgutil, edge_nodes\n"
        "for module in pkgutil.walk_packages(edge_nodes.__path__, 'edge_nodes.'):\n"
        "    importlib.import_module(module.name)"
    )

    assert loaded_after(everything, *HEAVY, "cloud_workers", "training") == set()
    assert loaded_after("import edge_nodes.node", "onnxruntime", "aiomqtt") == {"onnxruntime", "aiomqtt"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["edge", "--help"], ["demo", "--help"]], ids=lambda words: " ".join(words)
)
def test_command_line_starts_without_model_libraries(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['latentbus', *{arguments!r}]\n"
        "from latentbus.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code"
    )

    assert loaded_after(code, *HEAVY, "onnxruntime", "av", "numpy", "aiomqtt") == set()


def test_torch_in_the_shared_package_stays_in_modules_that_say_so() -> None:
    for name, tree in modules("pipeline").items():
        imports = top_level_imports(tree)
        uses_torch = any(imported.split(".")[0] in HEAVY for imported in imports)
        assert not uses_torch or name.endswith("_torch"), f"{name} imports a model library"
        if not name.endswith("_torch"):
            assert not [imported for imported in imports if imported.endswith("_torch")], name


def test_every_package_is_shipped_typed_and_linted() -> None:
    tracked = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}

    assert tracked == set(PACKAGES)
    assert tracked == set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert tracked <= set(PROJECT["tool"]["mypy"]["packages"])


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_say_what_they_are_and_export_what_they_have(package: str) -> None:
    for name, tree in modules(package).items():
        if tree.body:
            assert ast.get_docstring(tree), f"{name} has no docstring"
        defined = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        defined |= {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        defined |= {alias.asname or alias.name for node in ast.walk(tree)
                    if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                assert set(ast.literal_eval(node.value)) <= defined, f"{name} exports what it has not"


def test_only_the_error_tree_defines_errors() -> None:
    """One tree, so that every process can tell its own fault from a peer's."""
    tree = {node.name for node in modules("schemas")["schemas.errors"].body if isinstance(node, ast.ClassDef)}
    others: dict[str, tuple[str, set[str]]] = {}
    for package in PACKAGES:
        for name, parsed in modules(package).items():
            for node in ast.walk(parsed):
                if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and name != "schemas.errors":
                    others[node.name] = name, {ast.unparse(base).split(".")[-1] for base in node.bases}
    while grown := {error for error, (_, bases) in others.items() if bases & tree} - tree:
        tree |= grown
    assert others.keys() <= tree, {error: others[error][0] for error in others.keys() - tree}
