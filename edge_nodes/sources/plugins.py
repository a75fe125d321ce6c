"""Kinds of sources from other packages: the entry point group ``latentbus.sources``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Final, TypeAlias

from edge_nodes.sources.base import FrameSource, redacted
from pipeline.config.camera_settings import CameraSettings
from schemas.errors import SourceError
from schemas.types import SourceReason

GROUP: Final = "latentbus.sources"

SourceFactory: TypeAlias = Callable[[str, CameraSettings], FrameSource]
"""Makes the source of a camera from its name and settings; opens nothing yet."""


def plugin_factory(scheme: str) -> SourceFactory | None:
    """The factory that an installed package offers for a scheme.

    Args:
        scheme: what stands before the first colon, in lower case.

    Returns:
        None when no package offers one.

    Raises:
        SourceError: two packages offer one, or it cannot be imported.
    """
    found = list({_place(entry): entry for entry in entry_points(group=GROUP, name=scheme)}.values())
    if not found:
        return None
    if len(found) > 1:
        packages = " and ".join(sorted(_package(entry) for entry in found))
        raise SourceError(f"{scheme}:", f"{packages} both read it: uninstall one of them")
    (entry,) = found
    try:
        factory = entry.load()
    except Exception as error:  # a package of somebody else
        problem = f"{_package(entry)} cannot be loaded: {type(error).__name__}: {redacted(str(error))}"
        raise SourceError(f"{scheme}:", problem) from error
    if not callable(factory):
        raise SourceError(f"{scheme}:", f"{entry.value} of {_package(entry)} is no factory")
    return _guarded(_package(entry), factory)


def plugin_schemes() -> list[str]:
    """Schemes that installed packages offer."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def _guarded(package: str, factory: SourceFactory) -> SourceFactory:
    def make(camera: str, settings: CameraSettings) -> FrameSource:
        try:
            return factory(camera, settings)
        except SourceError:
            raise
        except Exception as error:  # a package of somebody else
            problem = f"{package}: {type(error).__name__}: {redacted(str(error))}"
            raise SourceError(redacted(settings.source), problem, SourceReason.OTHER) from error

    return make


def _place(entry: EntryPoint) -> tuple[str, str]:
    """The same package may be found in two folders of the path."""
    return _package(entry), entry.value


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
