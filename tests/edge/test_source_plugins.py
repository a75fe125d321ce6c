"""The example package, installed in a folder of the path, and packages that misbehave."""

from __future__ import annotations

import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_nodes.sources import GROUP, make_source
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from tests.source_names import ROOT

EXAMPLE = ROOT / "examples" / "source_plugin"


def install(folder: Path, name: str, entries: dict[str, str]) -> None:
    """What an installer leaves of a package beside its code."""
    info = folder / f"{name.replace('-', '_')}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = "".join(f"{scheme} = {value}\n" for scheme, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("latentbus_colour_bars", "foreign_source")):
            del sys.modules[name]


def settings(source: str) -> CameraSettings:
    return CameraSettings(source=source)


async def test_the_example_adds_a_kind_of_camera(site_packages: Path) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    with pytest.raises(SourceError, match="no source of kind 'bars'"):
        make_source("gate", settings("bars:0"))
    install(site_packages, project["name"], project["entry-points"][GROUP])
    shutil.copytree(EXAMPLE / "latentbus_colour_bars", site_packages / "latentbus_colour_bars")
    source = make_source("gate", settings("bars:0"))
    await source.open()
    first, second = await source.newest(), await source.newest()
    await source.close()
    assert first is not None
    assert second is not None
    assert (first.camera, first.index, second.index) == ("gate", 0, 1)
    assert first.pixels.shape == (120, 168, 3)
    assert (first.pixels[0, 0] == 255).all()
    assert (second.pixels[0, 24] == 255).all(), "the bars have moved"
    with pytest.raises(SourceError, match="write bars:SECONDS"):
        make_source("gate", settings("bars:often"))


def test_what_is_wrong_with_a_package_is_said_and_ends_nothing_else(site_packages: Path) -> None:
    (site_packages / "foreign_source.py").write_text(
        "value = 7\ndef make(camera, settings):\n    raise RuntimeError('no ' + settings.source)\n"
    )
    install(
        site_packages,
        "foreign-cameras",
        {"gone": "foreign_source_missing:make", "seven": "foreign_source:value", "bad": "foreign_source:make"},
    )
    with pytest.raises(SourceError, match=r"foreign-cameras cannot be loaded: ModuleNotFoundError"):
        make_source("gate", settings("gone:1"))
    with pytest.raises(SourceError, match="is no factory"):
        make_source("gate", settings("seven:1"))
    with pytest.raises(SourceError, match=r"foreign-cameras: RuntimeError: no bad://\*\*\*@cam/1") as caught:
        make_source("gate", settings("bad://admin:hunter2@cam/1"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError, match=r"one of bad:, file:, folder:, gone:, http:"):
        make_source("gate", settings("unknown:1"))


def test_two_packages_of_one_scheme_are_refused_and_none_replaces_a_kind_of_ours(site_packages: Path) -> None:
    for name in ("cameras-a", "cameras-b"):
        install(site_packages, name, {"mine": "foreign_source:make", "test": "foreign_source:make"})
    with pytest.raises(SourceError, match="cameras-a and cameras-b both read it"):
        make_source("gate", settings("mine:1"))
    assert type(make_source("gate", settings("test:1"))).__name__ == "RenderedCamera"
