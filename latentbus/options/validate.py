"""What the types of a settings file cannot tell: whether what it names can be opened here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.gate_file import find_gate_file
from pipeline.codec.spec import load_codec_spec
from pipeline.config.camera_settings import is_url_or_kind, source_below
from pipeline.config.settings import LatentbusSettings, load_settings
from pipeline.config.settings_checks import section, sites_of
from pipeline.config.settings_file import Location
from schemas.errors import ArtifactError

Problem = tuple[Location, str]


def load_and_check(path: Path) -> LatentbusSettings:
    """Read a settings file, and check every file, folder and camera that it names.

    Raises:
        ConfigError: all that is wrong, in one list.
    """
    return load_settings(path, checks=(partial(problems_of_files, path.absolute().parent),))


def problems_of_files(folder: Path, values: Mapping[str, Any]) -> Iterator[Problem]:
    """A check: what cannot be opened. Looks at each value by itself, so that one wrong key hides no other.

    Args:
        folder: of the settings file; relative paths count from it.
        values: the settings as they stand, right or wrong.
    """
    for name in ("ca_file", "cert_file", "key_file"):
        yield from _path_problem(folder, values, ("broker", "tls", name), _no_such_file)
    for place, site in sites_of(values):
        yield from _camera_problems(folder, place, site)
        yield from _codec_problem(folder, place, site, gate=True)
        for keys in (("state_dir",), ("frame_log",), ("recording", "file")):
            yield from _path_problem(folder, values, (*place, *keys), _cannot_be_made)
    for name in ("cert_file", "key_file"):
        yield from _path_problem(folder, values, ("gateway", "tls", name), _no_such_file)
    yield from _path_problem(folder, values, ("gateway", "state_dir"), _cannot_be_made)
    workers: list[Location] = [("worker",)] if "worker" in values else []
    workers += [("pools", name) for name in section(values, "pools")]
    for place in workers:
        worker = section(values, *map(str, place))
        yield from _codec_problem(folder, place, worker)
        yield from _vlm_problem(folder, place, worker)
        yield from _more_pools_problems(folder, values, place)
        yield from _path_problem(folder, values, (*place, "recording", "file"), _cannot_be_made)


def _more_pools_problems(folder: Path, values: Mapping[str, Any], worker: Location) -> Iterator[Problem]:
    for pool in section(values, *map(str, worker), "more_pools"):
        place = (*worker, "more_pools", pool)
        more = section(values, *map(str, place))
        if isinstance(more.get("codec"), str):
            yield from _codec_problem(folder, place, more)
        yield from _vlm_problem(folder, place, more)
        for name in ("ca_file", "cert_file", "key_file"):
            yield from _path_problem(folder, values, (*map(str, place), "broker", "tls", name), _no_such_file)


def _path_problem(
    folder: Path, values: Mapping[str, Any], location: Location, problem_of: Callable[[Path], str | None]
) -> Iterator[Problem]:
    text = section(values, *map(str, location[:-1])).get(str(location[-1]))
    problem = problem_of(folder / Path(text).expanduser()) if isinstance(text, str) else None
    if problem is not None:
        yield location, problem


def _no_such_file(path: Path) -> str | None:
    return None if path.is_file() else f"no such file: {path}"


def _cannot_be_made(path: Path) -> str | None:
    """Of a path whose folders are made when they are missing."""
    there = next(parent for parent in (path.parent, *path.parents) if parent.exists())
    if not there.is_dir():
        return f"cannot be made: {there} is no folder"
    return None if os.access(there, os.W_OK) else f"cannot be made: {there} is not writable"


def _camera_problems(folder: Path, place: Location, site: Mapping[str, Any]) -> Iterator[Problem]:
    from edge_nodes.sources import make_source
    from pipeline.config.camera_settings import CameraSettings
    from schemas.errors import SourceError

    for name, camera in section(site, "cameras").items():
        source = section(camera).get("source")
        if not isinstance(source, str) or not source:
            continue
        location = (*place, "cameras", name, "source")
        absolute = source_below(source, folder)
        if is_url_or_kind(source):
            try:
                make_source(name, CameraSettings(source=absolute))
            except SourceError as error:
                yield location, str(error)
                continue
        problem = _path_of_source(absolute)
        if problem is not None:
            yield location, problem


def _path_of_source(source: str) -> str | None:
    scheme, _, path = source.partition(":") if is_url_or_kind(source) else ("file", "", source)
    scheme, found = scheme.lower(), Path(path)
    if scheme in ("folder", "images"):
        return None if found.is_dir() else f"no such folder: {found}"
    if scheme == "file" and found.is_dir():
        return f"{found} is a folder: write folder:PATH for the newest picture in it, images:PATH to play all"
    return f"no such file: {found}" if scheme == "file" and not found.exists() else None


def _codec_problem(
    folder: Path, place: Location, process: Mapping[str, Any], *, gate: bool = False
) -> Iterator[Problem]:
    given = process.get("codec")
    if given is not None and not isinstance(given, str):
        return
    try:
        codec_dir = bundled_codec_dir() if given is None else folder / Path(given).expanduser()
        spec = load_codec_spec(codec_dir)
        if gate and section(process, "change_gate").get("enabled") is not False:
            find_gate_file(codec_dir, spec)
    except ArtifactError as error:
        yield (*place, "codec"), str(error)


def _vlm_problem(folder: Path, place: Location, worker: Mapping[str, Any]) -> Iterator[Problem]:
    given = worker.get("vlm")
    if not isinstance(given, str):
        return
    path = folder / Path(given).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            yield (*place, "vlm"), f"{path} holds no config.json: give a folder in save_pretrained format"
    elif given.startswith((".", "~", "/")) or given.count("/") != 1:
        yield (*place, "vlm"), f"no such folder: {path}; a hub id reads owner/model"
