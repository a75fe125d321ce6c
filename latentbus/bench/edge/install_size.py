"""What an edge takes on disk: the files of everything that is installed with it, without pip's own."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Final

_INSTALLERS: Final = frozenset({"pip", "setuptools", "wheel"})
_TIMEOUT_S: Final = 1800
_ROOT: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class InstallSize:
    """What was measured.

    Attributes:
        install_bytes: sum of the sizes of all installed files, compiled ones too; None where it could not be measured.
        by_package: of each distribution, largest first.
        torch: whether torch is among them.
        how: what was measured, or why nothing was.
    """

    install_bytes: int | None
    by_package: dict[str, int]
    torch: bool
    how: str


def install_size(constraints: Path = _ROOT / "constraints.txt") -> InstallSize:
    """Measure it: in a fresh environment where this runs from a checkout, else in the environment that it runs in.

    Args:
        constraints: versions that are installed.
    """
    if not (_ROOT / "pyproject.toml").is_file():
        return _counted(sizes(), "this environment")
    try:
        distribution("pip")
    except PackageNotFoundError:
        return InstallSize(None, {}, False, "not measured: this environment has no pip to install with")
    with tempfile.TemporaryDirectory(prefix="latentbus-edge-") as name:
        environment = Path(name) / "venv"
        venv.create(environment, with_pip=True)
        python = environment / "bin/python"
        install: list[str | Path] = [python, "-m", "pip", "install", "-q", "-c", constraints, f"{_ROOT}[edge]"]
        head = "import json; from importlib.metadata import distributions"
        code = f"{head}\n{inspect.getsource(sizes)}\nprint(json.dumps(sizes()))"
        try:
            subprocess.run(install, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=name)  # noqa: S603
            done = subprocess.run(  # noqa: S603
                [python, "-I", "-c", code], check=True, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=name
            )
        except subprocess.TimeoutExpired as error:
            return InstallSize(None, {}, False, f"not measured: pip took more than {error.timeout:.0f} s")
        except subprocess.CalledProcessError as error:
            problem = (str(error.stderr).strip().splitlines() or ["it said nothing"])[-1]
            return InstallSize(None, {}, False, f"not measured: pip could not install it: {problem}")
    return _counted(json.loads(done.stdout), f"pip install '.[edge]' into an empty environment, {_python()}")


def sizes() -> dict[str, int]:
    """Bytes of the files of each distribution in this environment."""
    found = {}
    for each in distributions():
        paths = [each.locate_file(file) for file in each.files or ()]
        found[each.name] = sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]
    return found


def _counted(sizes: dict[str, int], how: str) -> InstallSize:
    ours = {name: size for name, size in sizes.items() if name not in _INSTALLERS}
    largest_first = dict(sorted(ours.items(), key=lambda entry: -entry[1]))
    return InstallSize(sum(ours.values()), largest_first, "torch" in ours, how)


def _python() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor}"
