"""Answers as the gateway has them."""

from __future__ import annotations

from typing import Any

from latentbus.gateway.models import AnswerView
from schemas.types import Outcome


def view(number: int = 0, text: str = "yes", **given: Any) -> AnswerView:
    """A final answer to a standing question of camera gate."""
    fields: dict[str, Any] = {
        "query_id": f"gate/00000001-{number}/car",
        "at": 1000.0 + number,
        "camera": "gate",
        "site": "north",
        "question_id": "car",
        "ad_hoc": False,
        "question": "Is there a car?",
        "outcome": Outcome.ANSWERED,
        "text": text,
        "confidence": 0.9,
        "latents": 9,
        "latents_total": 48,
        "payload_bytes": 41,
        "looks": 1,
        "worker": "w1",
        "frame": f"00000001-{number}",
    }
    return AnswerView.model_validate(fields | given)
