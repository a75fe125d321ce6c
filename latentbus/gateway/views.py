"""Messages of the fleet as the gateway shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from latentbus.gateway.models import AnswerView
from pipeline.codec.bundled import models_dir
from pipeline.codec.spec import load_codec_spec
from pipeline.config.logs import get_logger
from pipeline.protocol.fleet_view import FleetView
from schemas.answer_value import answer_value
from schemas.errors import ArtifactError
from schemas.messages import Answer, QueryOutcome

_log = get_logger(__name__)


def whole_latents(folders: Iterable[Path]) -> dict[str, int]:
    """Length of the whole latent by fingerprint, as statuses carry that: of the bundled codecs and of others.

    Args:
        folders: of the others.

    Raises:
        ArtifactError: one of these cannot be read.
    """
    specs = [load_codec_spec(folder) for folder in folders]
    bundled = models_dir() / "codecs"
    for folder in sorted(bundled.iterdir()) if bundled.is_dir() else ():
        if not folder.is_dir():
            continue
        try:
            specs.append(load_codec_spec(folder))
        except ArtifactError as error:
            _log.warning("a bundled codec cannot be read", problem=str(error))
    return {spec.fingerprint4.hex(): spec.latent_count for spec in specs}


class Views:
    """Turns messages into what is shown.

    Args:
        fleet: what the statuses say.
        whole: length of the whole latent by fingerprint.
    """

    def __init__(self, fleet: FleetView, whole: Mapping[str, int]) -> None:
        self._fleet = fleet
        self._whole = whole

    def answer(self, message: Answer | QueryOutcome, at_s: float, question: str | None) -> AnswerView:
        """An answer or outcome.

        Args:
            message: it.
            at_s: when it came, in seconds since 1970.
            question: the text that was asked, where it is known; that of a standing question is looked up.
        """
        site, standing = self._fleet.site_of_query(message.owner, message.camera), None
        if not message.ad_hoc and site is not None:
            standing = self._fleet.questions.get((site, message.question_id))
        if question is None and standing is not None:
            question = standing.text
        given = {
            "query_id": message.query_id,
            "at": at_s,
            "camera": message.camera,
            "site": site,
            "question_id": message.question_id,
            "ad_hoc": message.ad_hoc,
            "question": question,
            "outcome": message.outcome,
            "reason": message.reason,
            "frame": str(message.frame),
            "age_ms": message.age_ms,
            "late": message.history,
        }
        if isinstance(message, Answer):
            if standing is not None:
                given["value"] = answer_value(standing.answer_type, message.text, standing.options)
            given |= {
                "text": message.text,
                "confidence": round(message.score, 4),
                "latents": message.latents,
                "latents_total": self._total(site, message.latents),
                "payload_bytes": message.payload_bytes,
                "looks": message.looks,
                "worker": message.worker,
            }
        return AnswerView.model_validate(given)

    def _total(self, site: str | None, latents: int) -> int | None:
        edge = None if site is None else self._fleet.edge(site)
        total = None if edge is None else self._whole.get(edge.fingerprint)
        # A site that changes its codec may have said so before its last frame was answered.
        return None if total is None or total < latents else total
