"""The table of model families."""

from __future__ import annotations

from analysis.markdown import table


def families_table() -> str:
    """Families that are registered and tested, with the codecs that can be made for their models."""
    from cloud_workers.inference.registry import FAMILIES
    from tests.cloud.tiny_models import FAMILIES as TESTED

    rows = [
        (
            family.name,
            f"`{family.model_type}`",
            "KLT, Meta AutoEncoder" if family.plain_prompts else "KLT",
            family.note,
        )
        for family in FAMILIES.values()
        if family.model_type in TESTED
    ]
    return table(("family", "`model_type`", "codecs", "to know"), rows)
