"""Loads what a worker computes with, and refuses what does not belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud_workers.inference.backend import InferenceBackend
from cloud_workers.inference.in_process import open_in_process
from cloud_workers.pass_engine import PassEngine, VlmPassEngine
from cloud_workers.pass_scores import PassScores
from cloud_workers.prefix_store import PrefixStore
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.stop_file import load_stop_file
from pipeline.codec.stop_shift import ShiftDetector
from pipeline.codec.tables import FrequencyTables
from pipeline.config.worker_settings import WorkerSettings
from pipeline.node.work_thread import WorkThread
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError, ConfigError

OpenBackend = Callable[[WorkerSettings, CodecSpec, WorkThread], InferenceBackend]
"""Opens what runs the model of a codec; called in the model's thread."""


def open_configured(settings: WorkerSettings, spec: CodecSpec, thread: WorkThread) -> InferenceBackend:
    """Open what the settings name: the model in this process, or a vLLM server.

    Raises:
        ArtifactError: the model is missing or damaged, of an unknown family, or another one than the codec's.
        ConfigError: a setting names what is not there.
    """
    if settings.vllm is None:
        return open_in_process(settings, spec, thread)
    try:
        from cloud_workers.inference.vllm.backend import open_vllm
    except ModuleNotFoundError as error:
        raise ConfigError("worker.vllm", f"needs {error.name}: pip install 'latentbus[vllm]'") from None
    return open_vllm(settings, settings.vllm, spec, thread)


def opened_once(open_backend: OpenBackend) -> OpenBackend:
    """The same for several pools of one process: two that need the same model, cut alike, get the same backend."""
    opened: dict[tuple[object, ...], InferenceBackend] = {}

    def open_or_share(settings: WorkerSettings, spec: CodecSpec, thread: WorkThread) -> InferenceBackend:
        address = None if settings.vllm is None else settings.vllm.url
        key = (settings.vlm, address, spec.vlm_sha256, spec.tiles_per_edge, spec.tile_px)
        if key not in opened:
            opened[key] = open_backend(settings, spec, thread)
        return opened[key]

    return open_or_share


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """Everything that a worker computes with.

    Attributes:
        spec: identity and shapes of the codec.
        stop_rule: its calibrated stop rule.
        engine: latents to answers.
        backend: what runs the model; to be closed at the end.
        shift: compares scores with those of the stop rule's calibration, if that has left any.
    """

    spec: CodecSpec
    stop_rule: StopRule
    engine: PassEngine
    backend: InferenceBackend
    shift: ShiftDetector | None = None


def load_worker_model(
    settings: WorkerSettings, thread: WorkThread, open_backend: OpenBackend = open_configured
) -> WorkerModel:
    """Load codec and model. Takes seconds to minutes; runs in the model's thread.

    Args:
        settings: of the worker.
        thread: where prefixes will be decoded, and a model in this process will run.
        open_backend: makes what runs the model.

    Raises:
        ArtifactError: something is missing or damaged, or the codec was made for another model.
        ConfigError: there is no such device.
    """
    codec_dir = settings.codec or bundled_codec_dir()
    spec = load_codec_spec(codec_dir)
    stop = load_stop_file(codec_dir)
    stop_rule = stop.rule
    if stop_rule.ladder != spec.ladder:
        raise ArtifactError(
            str(codec_dir),
            f"the stop rule was calibrated for prefixes {list(stop_rule.ladder)}, the codec has {list(spec.ladder)}: "
            "run `latentbus codec calibrate-stop`",
        )
    backend = open_backend(settings, spec, thread)
    found = backend.capabilities
    if found.fingerprint != spec.vlm_sha256:
        raise ArtifactError(
            str(codec_dir),
            f"codec {spec.name} was made for {spec.vlm_id}, weights {spec.vlm_sha256[:12]}, the {found.backend} runs "
            f"{found.fingerprint[:12] or 'an unnamed model'}: use that model, or make a codec for this one with "
            "`latentbus train codec`",
        )
    if (found.token_count, found.token_dim) != (spec.token_count, spec.token_dim):
        raise ArtifactError(
            str(codec_dir),
            f"it decodes {spec.token_count} tokens of {spec.token_dim} values, the {found.backend} reads "
            f"{found.token_count} of {found.token_dim}: make a codec for this model with `latentbus train codec`",
        )
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    store = PrefixStore(
        tables,
        load_prefix_decoder(codec_dir, device=settings.device),
        max_frames=settings.capacity_frames,
    )
    scores = PassScores(stop, tables)
    return WorkerModel(spec, stop_rule, VlmPassEngine(store, backend, thread, scores), backend, scores.shift)
