"""The section of an edge in the settings, as its session and its log take it."""

from __future__ import annotations

from edge_nodes.asking import asking_settings
from edge_nodes.sources import redacted
from edge_nodes.uplink_spending import uplink_budget
from pipeline.config.edge_settings import ClientBudgetSettings, EdgeSettings
from pipeline.protocol.client_budgets import ClientBudget
from pipeline.protocol.event_keeper import EventSettings
from pipeline.protocol.frame_ring import RingSettings
from pipeline.protocol.site_settings import SiteSettings
from pipeline.protocol.store_settings import StoreSettings
from schemas.messages import Question


def site_settings(edge: EdgeSettings) -> SiteSettings:
    """What the session of a site needs of its settings."""
    return SiteSettings(
        site=edge.site,
        pool=edge.pool,
        asked_of={name: camera.questions for name, camera in edge.cameras.items()},
        questions={
            question_id: Question(
                site=edge.site,
                question_id=question_id,
                text=question.text,
                answer_type=question.answer_type,
                options=question.options,
                deadline_ms=question.deadline_ms,
                risk=question.risk,
                set_by="settings",
                keep_when=question.keep_when,
            )
            for question_id, question in edge.questions.items()
        },
        uplink_kbps=edge.uplink_kbps,
        gather_s=edge.uplink_gather_ms / 1000,
        budget=uplink_budget(edge.uplink_budget),
        priorities={name: camera.priority for name, camera in edge.cameras.items()},
        store=StoreSettings(
            policy=edge.store.policy,
            nth=edge.store.nth,
            max_entries=edge.store.max_frames,
            max_bytes=edge.store.max_bytes,
            max_age_s=edge.store.max_age_s,
        ),
        client_budget=_budget(edge.client_budget),
        client_budgets={name: _budget(budget) for name, budget in edge.client_budgets.items()},
        ring=RingSettings(edge.ring.history_s, round(edge.ring.memory_mb * 1_000_000)),
        events={
            name: EventSettings(camera.ring.before_s, camera.ring.after_s, frozenset(camera.ring.pictures_for))
            for name, camera in edge.cameras.items()
        },
        event_max_age_s=edge.ring.max_age_s,
        shares={name: camera.uplink_share for name, camera in edge.cameras.items() if camera.uplink_share is not None},
        asking=asking_settings(edge),
    )


def without_credentials(edge: EdgeSettings) -> EdgeSettings:
    """The settings without what the addresses of cameras give away."""
    cameras = {
        name: camera.model_copy(update={"source": redacted(camera.source)}) for name, camera in edge.cameras.items()
    }
    return edge.model_copy(update={"cameras": cameras})


def _budget(settings: ClientBudgetSettings) -> ClientBudget:
    return ClientBudget(settings.asks_per_s, settings.burst_asks, settings.open_asks, settings.kbps)
