"""What a settings file alone cannot tell: whether the files that it names are there and fit together."""

from __future__ import annotations

from pathlib import Path

from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import load_codec_spec
from pipeline.settings import LatentbusSettings
from schemas.errors import ArtifactError, ConfigError


def check_files(settings: LatentbusSettings, path: Path) -> None:
    """Check that every file and codec folder that the settings name can be read.

    Args:
        settings: what was read.
        path: where, for messages.

    Raises:
        ConfigError: the first problem, with its key.
    """
    tls = settings.broker.tls
    for name in ("ca_file", "cert_file", "key_file"):
        file: Path | None = getattr(tls, name) if tls else None
        if file is not None and not file.is_file():
            raise ConfigError(f"{path}: broker.tls.{name}", f"no such file: {file}")
    if settings.edge is not None:
        for name, camera in settings.edge.cameras.items():
            source = Path(camera.source)
            if source.is_absolute() and not source.is_file():
                raise ConfigError(f"{path}: edge.cameras.{name}.source", f"no such file: {source}")
        _check_codec(f"{path}: edge.codec", settings.edge.codec)
    if settings.worker is not None:
        _check_codec(f"{path}: worker.codec", settings.worker.codec)


def _check_codec(where: str, folder: Path | None) -> None:
    try:
        load_codec_spec(folder or bundled_codec_dir())
    except ArtifactError as error:
        raise ConfigError(where, str(error)) from None
