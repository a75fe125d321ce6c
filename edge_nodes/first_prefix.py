"""Binds the prefix policy of a codec folder to a site: which prefix each frame begins with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.codec.latent import EncodedLatent
from pipeline.codec.prefix_policy import Link, Objective, PrefixChoice, PrefixPolicy
from pipeline.codec.spec import CodecSpec
from pipeline.codec.stop_file import find_stop_file
from pipeline.config.edge_settings import FirstPrefixRule
from pipeline.config.logs import get_logger
from schemas.messages import Answer
from schemas.types import AnswerType, Outcome

_log = get_logger(__name__)


class FirstPrefix:
    """Prefix lengths for the open messages of a site.

    Args:
        rule: the fewest expected wire bytes, the shortest expected delay, always the codec's base prefix, or always
            the whole latent.
        codec_dir: codec folder; its stop rule's statistics feed the first two rules.
        spec: of that folder.
        uplink_kbps: rate of the uplink in 1000 bits a second; None has no limit.
        whole: cameras that always send everything: the codec was not calibrated for their frames.

    Raises:
        ArtifactError: ``stop.json`` is there but damaged.
    """

    def __init__(
        self,
        rule: FirstPrefixRule,
        codec_dir: Path,
        spec: CodecSpec,
        uplink_kbps: float | None,
        *,
        whole: Collection[str] = (),
    ) -> None:
        self._whole = dict.fromkeys(whole, spec.latent_count)
        self._fixed = spec.latent_count if rule == "whole" else spec.base_latents
        self._bytes_per_s = None if uplink_kbps is None else uplink_kbps * 125
        self._policy: PrefixPolicy | None = None
        if rule in ("bytes", "delay"):
            stop = find_stop_file(codec_dir)
            if stop is None or stop.statistics is None:
                _log.warning(
                    "first prefixes have the codec's fixed length: its stop rule has no statistics",
                    base_latents=self._fixed,
                    fix="latentbus codec calibrate-stop",
                )
            else:
                objective: Objective = "delay" if rule == "delay" else "bytes"
                self._policy = PrefixPolicy(stop.statistics, objective=objective, at_once=stop.rule.at_once)

    def choose(
        self,
        camera: str,
        latent: EncodedLatent,
        questions: Sequence[AnswerType],
        round_trip_s: float,
        *,
        given: EncodedLatent | None = None,
    ) -> PrefixChoice | int:
        """What the first message of a frame carries: a choice of the policy, or a fixed length in latents.

        Args:
            camera: its camera.
            latent: its latent, coded by itself.
            questions: answer types of its questions.
            round_trip_s: from the departure of an open message to the first answer, as it was lately.
            given: the same latent as it is sent, if it is coded given a key frame.
        """
        if self._policy is None or camera in self._whole:
            return self._whole.get(camera, self._fixed)
        return self._policy.choose_for(camera, latent, questions, Link(self._bytes_per_s, round_trip_s), given=given)

    def offered(self, camera: str, query_ids: Sequence[str], choice: PrefixChoice | int) -> None:
        """A frame goes out with this choice."""
        if self._policy is not None and isinstance(choice, PrefixChoice):
            self._policy.offered(camera, query_ids, choice)

    def answered(self, answer: Answer) -> None:
        """A worker answered; its first word on a query tells whether the first prefix was enough."""
        if self._policy is not None and answer.outcome is not Outcome.FAILED:
            safe = answer.outcome is Outcome.ANSWERED
            self._policy.answered(answer.camera, answer.query_id, answer.latents, safe=safe)


def first_latents(choice: PrefixChoice | int) -> int:
    """Length of the prefix that was chosen, in latents."""
    return choice.latents if isinstance(choice, PrefixChoice) else choice
