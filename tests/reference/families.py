"""The table of model families."""

from __future__ import annotations

from analysis.markdown import table


def families_table() -> str:
    """Families that are registered and tested, and how questions of a frame are read while a codec learns."""
    from cloud_workers.inference.registry import FAMILIES
    from tests.cloud.tiny_models import FAMILIES as TESTED

    rows = [
        (
            family.name,
            f"`{family.model_type}`",
            "all at once" if family.plain_prompts else "one by one",
            family.note,
        )
        for family in FAMILIES.values()
        if family.model_type in TESTED
    ]
    return table(("family", "`model_type`", "questions in training", "to know"), rows)
