"""Real surveillance video: fetched when asked, never a part of the project."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from schemas.errors import ArtifactError

VTEST: Final = "vtest.avi"
"""A camera that stands still over a yard where people walk: 768 x 576, 10 pictures a second, 795 of them. It comes from
PETS 2009 (University of Reading), for research, with acknowledgement."""

_PACKAGE: Final = "opencv-doc"
_MEMBER: Final = f"usr/share/doc/opencv-doc/examples/data/{VTEST}"
_DOWNLOAD_LIMIT_S: Final = 600


def fetch_vtest(cache_dir: Path) -> Path:
    """The video out of Debian's package `opencv-doc` (96 MB), which apt checks; kept in the cache.

    Args:
        cache_dir: Made if it is not there.

    Raises:
        ArtifactError: apt or dpkg are not here, the download fails, or the package holds no such file.
    """
    target = cache_dir / VTEST
    if target.is_file():
        return target
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ArtifactError(
                VTEST, f"there is no {tool} here: take the file from Debian's package {_PACKAGE}, or name another video"
            )
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as name:
        folder = Path(name)
        # apt downloads as a user of its own where it may write.
        folder.chmod(0o755)
        _run(["apt-get", "download", _PACKAGE], folder, "apt-get update")
        packages = sorted(folder.glob(f"{_PACKAGE}_*.deb"))
        if not packages:
            raise ArtifactError(VTEST, f"apt-get download {_PACKAGE} left no package in {folder}")
        _run(["dpkg-deb", "--fsys-tarfile", packages[0].name], folder, "the download again", output=folder / "data.tar")
        partial = folder / VTEST
        with tarfile.open(folder / "data.tar") as archive:
            member = next((entry for entry in archive if entry.name.removeprefix("./") == _MEMBER), None)
            content = archive.extractfile(member) if member is not None else None
            if content is None:
                raise ArtifactError(VTEST, f"{packages[0].name} holds no {_MEMBER}: name another video")
            with partial.open("wb") as file:
                shutil.copyfileobj(content, file)
        partial.replace(target)
    return target


def _run(command: list[str], folder: Path, fix: str, *, output: Path | None = None) -> None:
    try:
        with (output or folder / "out").open("wb") as stream:
            done = subprocess.run(  # noqa: S603 - fixed commands
                command, cwd=folder, stdout=stream, stderr=subprocess.PIPE, timeout=_DOWNLOAD_LIMIT_S, check=False
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArtifactError(VTEST, f"{' '.join(command)} did not end: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise ArtifactError(VTEST, f"{' '.join(command)} failed ({lines[-1]}): try {fix}")
