"""The model that a codec is made for: a folder, or a model of the hub at one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from cloud_workers.inference.registry import hub_id_and_revision
from pipeline.codec.model_files import check_model_files
from pipeline.codec.spec import MAX_VLM_ID_CHARS
from schemas.errors import ArtifactError, ConfigError
from training.run import Progress

_FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""What a model is made of; no pickles, and no code."""


@dataclass(frozen=True, slots=True)
class FoundVlm:
    """A model on this machine.

    Attributes:
        folder: In `save_pretrained` format.
        vlm_id: What codecs call it; of the hub with its commit, so that workers load the same.
    """

    folder: Path
    vlm_id: str


def find_vlm(source: str, vlm_id: str | None, progress: Progress) -> FoundVlm:
    """Look for a model, and download it if it is one of the hub.

    Args:
        source: Folder, or hub id, ``org/name`` or ``org/name@revision``.
        vlm_id: What codecs are to call it; its own name unless given.
        progress: Called before a download.

    Raises:
        ConfigError: no such folder, and no hub id.
        ArtifactError: the hub does not give it, or its files are damaged.
    """
    folder = Path(source)
    if folder.is_dir():
        found = FoundVlm(folder, vlm_id or folder.resolve().name[:MAX_VLM_ID_CHARS])
    elif source.count("/") == 1 and not source.startswith((".", "/", "~")):
        found = _from_hub(source, vlm_id, progress)
    else:
        raise ConfigError("--vlm", f"no such folder: {source}; give one in save_pretrained format, or a hub id")
    check_model_files(found.folder)
    return found


def _from_hub(source: str, vlm_id: str | None, progress: Progress) -> FoundVlm:
    hub_id, revision = hub_id_and_revision(source)
    progress(f"{hub_id}: looking for it in the cache and on the hub")
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(_FILES)))
    except (OSError, ValueError, HFValidationError) as error:
        problem = str(error).strip().split("\n")[0]
        raise ArtifactError(
            source, f"the hub does not give it ({problem}): check the id and the network, or give a local folder"
        ) from error
    # Snapshots are kept by commit: whatever name was given, this is what it meant.
    pinned = f"{hub_id}@{folder.name}"
    if revision != folder.name:
        progress(f"pinned to {pinned}")
    return FoundVlm(folder, vlm_id or pinned)
