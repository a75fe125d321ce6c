"""Models of a process: whether they are there, whole, and those that the rest of its pool has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edge_nodes.check.findings import Finding, Verdict
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.spec import ENCODER_FILES, WEIGHTS_FILE, CodecSpec, load_codec_spec
from pipeline.config.edge_settings import EdgeSettings
from pipeline.config.worker_settings import WorkerSettings
from schemas.errors import ArtifactError
from schemas.messages import Status

COPY_FOLDER: Final = "copy the whole codec folder, the same one to every edge and worker of the pool"


def check_edge_models(edge: EdgeSettings) -> tuple[list[Finding], str | None]:
    """The codec of an edge; with the fingerprint that its status will have."""
    try:
        folder = edge.codec or bundled_codec_dir()
        spec = load_codec_spec(folder)
        _require(folder / ENCODER_FILES[edge.precision])
    except ArtifactError as error:
        return [Finding("codec", Verdict.BAD, str(error), COPY_FOLDER)], None
    return [_good(folder, spec)], spec.fingerprint4.hex()


def check_worker_models(worker: WorkerSettings) -> tuple[list[Finding], str | None]:
    """Codec and model of a worker; with the fingerprint that its status will have."""
    try:
        folder = worker.codec or bundled_codec_dir()
        spec = load_codec_spec(folder)
        _require(folder / WEIGHTS_FILE)
    except ArtifactError as error:
        return [Finding("codec", Verdict.BAD, str(error), COPY_FOLDER)], None
    return [_good(folder, spec), _vlm(worker, spec)], spec.fingerprint4.hex()


def _require(file: Path) -> None:
    if not file.is_file():
        raise ArtifactError(str(file), "missing")


def _good(folder: Path, spec: CodecSpec) -> Finding:
    found = f"{spec.name} {spec.version} for {spec.vlm_id}, fingerprint {spec.fingerprint4.hex()}: {folder}"
    return Finding("codec", Verdict.GOOD, found, None, {"fingerprint": spec.fingerprint4.hex()})


def _vlm(worker: WorkerSettings, spec: CodecSpec) -> Finding:
    try:
        folder = bundled_vlm_dir() if worker.vlm is None else Path(worker.vlm)
        if not folder.is_dir():
            found = f"{worker.vlm} is no folder here: it is fetched from the hub as the worker starts"
            return Finding("model", Verdict.UNKNOWN, found)
        spec.check_vlm(folder)
    except (ArtifactError, OSError) as error:
        fix = "give worker.vlm the folder of the model that the codec was made for"
        return Finding("model", Verdict.BAD, str(error), fix)
    return Finding("model", Verdict.GOOD, f"{spec.vlm_id}, the one that the codec was made for: {folder}")


def compare_fingerprint(pool: str, fingerprint: str, statuses: Iterable[Status], *, of: str) -> Finding:
    """Whether this process has the codec of its pool.

    Args:
        pool: that it asks or works in.
        fingerprint: of its codec.
        statuses: of edges and workers, as far as they may be read.
        of: what this process is, ``edge`` or ``worker``.
    """
    other = "worker" if of == "edge" else "edge"
    members = [status for status in statuses if status.online and status.pool == pool and status.fingerprint]
    facing = [status for status in members if status.kind == other]
    alike = [status for status in facing if status.fingerprint == fingerprint]
    what = "fingerprints"
    if not facing:
        return Finding(what, Verdict.UNKNOWN, f"no {other} of pool {pool} is online, or this identity may not see it")
    if alike:
        return Finding(what, Verdict.GOOD, f"{len(alike)} of {len(facing)} {other}s of pool {pool} have {fingerprint}")
    theirs = ", ".join(sorted({status.fingerprint for status in facing}))
    return Finding(
        what, Verdict.BAD, f"this {of} has {fingerprint}, the {other}s of pool {pool} have {theirs}", COPY_FOLDER
    )
