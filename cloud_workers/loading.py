"""Loads what a worker computes with, and refuses what does not belong together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers.utils.logging import disable_progress_bar

from cloud_workers.look_engine import LookEngine, VlmLookEngine
from cloud_workers.look_scores import LookScores
from cloud_workers.prefix_store import PrefixStore
from cloud_workers.vlm import TransformersVlm
from pipeline.codec.bundled import bundled_codec_dir, bundled_vlm_dir
from pipeline.codec.device_torch import check_device
from pipeline.codec.prefix_decoder_torch import load_prefix_decoder
from pipeline.codec.spec import TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.stop_file import load_stop_file
from pipeline.codec.stop_shift import ShiftDetector
from pipeline.codec.tables import FrequencyTables
from pipeline.config.settings import WorkerSettings
from pipeline.protocol.stop_rule import StopRule
from schemas.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class WorkerModel:
    """Everything that a worker computes with.

    Attributes:
        spec: identity and shapes of the codec.
        stop_rule: its calibrated stop rule.
        engine: latents to answers.
        shift: compares scores with those of the stop rule's calibration, if that has left any.
    """

    spec: CodecSpec
    stop_rule: StopRule
    engine: LookEngine
    shift: ShiftDetector | None = None


def load_worker_model(settings: WorkerSettings) -> WorkerModel:
    """Load codec and model. Takes seconds to minutes; runs in the model's thread.

    Raises:
        ArtifactError: something is missing or damaged, or the codec was made for another model.
        ConfigError: there is no such device.
    """
    check_device(settings.device, "worker.device")
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
    source = str(bundled_vlm_dir()) if settings.vlm is None else settings.vlm
    local = Path(source)
    if local.is_dir():
        spec.check_vlm(local)
    # Progress bars have no place in the log of a service.
    disable_progress_bar()
    vlm = TransformersVlm.load(source, device=settings.device, tiles_per_edge=spec.tiles_per_edge)
    if not local.is_dir():
        spec.check_vlm(Path(snapshot_download(source, local_files_only=True)))
    if (vlm.token_count, vlm.token_dim) != (spec.token_count, spec.token_dim):
        raise ArtifactError(
            str(codec_dir),
            f"it decodes {spec.token_count} tokens of {spec.token_dim} values, {source} reads {vlm.token_count} of "
            f"{vlm.token_dim}: make a codec for this model with `latentbus train codec`",
        )
    tables = FrequencyTables.load(codec_dir / TABLES_FILE)
    store = PrefixStore(
        tables,
        load_prefix_decoder(codec_dir, device=settings.device),
        max_frames=settings.capacity_frames,
    )
    scores = LookScores(stop, tables, store, vlm)
    return WorkerModel(spec, stop_rule, VlmLookEngine(store, vlm, scores), scores.shift)
