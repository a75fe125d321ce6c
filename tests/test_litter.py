"""What does not belong in the tree: what runs leave at the root, and paths of the machine that somebody worked on."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from tests.source_names import PACKAGES, ROOT, parse

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout: git does not say what is tracked")

AT_THE_ROOT = {
    ".ci",
    ".dockerignore",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "analysis",
    "benchmarks",
    "broker_config",
    "cloud_workers",
    "constraints.txt",
    "deploy",
    "docker",
    "docker-compose.yml",
    "docs",
    "edge_nodes",
    "examples",
    "latentbus",
    "models",
    "pipeline",
    "pyproject.toml",
    "schemas",
    "scripts",
    "simulation",
    "tests",
    "training",
}
"""Everything that is meant to stand there; CONTRIBUTING.md describes the folders."""

OF_A_MACHINE = re.compile(
    rb"(?<![\w.~$}/*<>-])(?:/(?:home|root|Users|work|tmp|var/tmp|var/folders|private|mnt|media|scratch)|[A-Z]:\\Users)"
    rb"[/\\][\w.]"
)
"""Home, work and scratch folders. Where software is installed (``/usr``, ``/opt``) or keeps its state (``/etc``,
``/var/lib``, ``/proc``) is the same everywhere."""


def git(*arguments: str) -> list[str]:
    """Names that git gives."""
    listed = subprocess.run(["git", *arguments, "-z"], cwd=ROOT, capture_output=True, check=True)
    return [name for name in listed.stdout.decode().split("\0") if name]


def test_nothing_at_the_root_is_there_by_accident() -> None:
    tracked = {name.partition("/")[0] for name in git("ls-files")}

    assert tracked - AT_THE_ROOT == set(), "git rm it, or name it above"
    assert AT_THE_ROOT - tracked == set()


def test_nothing_is_tracked_that_is_ignored() -> None:
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_what_runs_leave_at_the_root_is_ignored() -> None:
    left = [name for name in git("ls-files", "--others", "--exclude-standard", "--directory") if "/" not in name[:-1]]

    assert left == [], "git add it, delete it, or add it to .gitignore"


def work_folders() -> set[str]:
    """Folders in the current directory that commands write to unless told otherwise."""
    found = set()
    for package in (*PACKAGES, "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(parse(path)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path" and len(node.args) == 1:
                    argument = node.args[0]
                    if isinstance(argument, ast.Constant) and re.match(r"\.\w", str(argument.value)):
                        found.add(str(argument.value).partition("/")[0])
    return found


def test_work_folders_of_commands_are_ignored_and_cleaned() -> None:
    folders = work_folders()
    cleaned = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nclean:")[2].split()

    assert {".demo", ".chaos", ".replay"} <= folders
    for folder in folders:
        ignored = subprocess.run(["git", "check-ignore", "--quiet", f"{folder}/run/worker.log"], cwd=ROOT, check=False)
        assert ignored.returncode == 0, f"add {folder}/ to .gitignore"
        assert folder in cleaned, f"make clean leaves {folder}"


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = {}
    for name in git("ls-files"):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if paths := OF_A_MACHINE.findall(content):
            found[name] = paths

    assert found == {}


@pytest.mark.parametrize(
    ("text", "is_of_a_machine"),
    [
        ("'/{}/ann/latentbus'", True),
        ("cd /{}/latentbus", True),
        ("file:/{}/latentbus", True),
        ("(/{}/run.log)", True),
        ("x=/{}/out.json", True),
        ("tests/{}/out.json", False),
        ("../{}/out.json", False),
        ("https://example.org/{}/page", False),
        ("f'{{seed}}/{}/1'", False),
        ("$HOME/{}/1", False),
        ("/{}ing/1", False),
    ],
)
@pytest.mark.parametrize("folder", ["home", "root", "Users", "work", "tmp", "var/tmp", "mnt"])
def test_folders_of_a_machine_are_told_from_others(text: str, folder: str, is_of_a_machine: bool) -> None:
    assert (OF_A_MACHINE.search(text.format(folder).encode()) is not None) is is_of_a_machine


@pytest.mark.parametrize("path", ["/etc/latentbus/site.yaml", "/var/lib/latentbus", "/opt/latentbus/models", "/proc/1"])
def test_places_that_are_the_same_everywhere_are_allowed(path: str) -> None:
    assert OF_A_MACHINE.search(path.encode()) is None
