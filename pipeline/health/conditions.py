"""Every condition that should not last: how bad it is, what it says, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias

Severity: TypeAlias = Literal["info", "warning", "critical"]
Subject: TypeAlias = Literal["site", "pool", "worker", "gateway"]
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "warning", "info")
"""The worst first."""


class HealthKind(StrEnum):
    """What can be wrong."""

    SITE_OFFLINE = "site-offline"
    SITE_SILENT = "site-silent"
    CAMERA_STALLED = "camera-stalled"
    CAMERA_COVERED = "camera-covered"
    UPLINK_BUDGET = "uplink-budget"
    POOL_EMPTY = "pool-empty"
    CODEC_MISMATCH = "codec-mismatch"
    BACKLOG_GROWING = "backlog-growing"
    DEADLINES_MISSED = "deadlines-missed"
    STOP_SHIFT = "stop-shift"
    DISK_FILLING = "disk-filling"
    CLOCK_WRONG = "clock-wrong"
    CERTIFICATE_ENDING = "certificate-ending"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a condition means.

    Attributes:
        severity: how bad it is, unless the sign says otherwise.
        text: what it is; ``{subject}``, ``{part}`` and ``{detail}`` are filled in.
        advice: what to do.
    """

    severity: Severity
    text: str
    advice: str


EXPLANATIONS: Final[dict[str, Explanation]] = {
    HealthKind.SITE_OFFLINE: Explanation(
        "critical",
        "{subject} is offline: {detail} cannot be asked",
        "Look at its power and uplink, then at the log of its edge",
    ),
    HealthKind.SITE_SILENT: Explanation(
        "warning",
        "{subject} says that it is online, and nothing has come from it for {detail}",
        "Look at its uplink and at the log of its edge. One that is gone for good: latentbus broker retained",
    ),
    HealthKind.CAMERA_STALLED: Explanation(
        "warning",
        "camera {part} of {subject} shows no new frames",
        "Look at its power, network and password; the log of the edge names the reason",
    ),
    HealthKind.CAMERA_COVERED: Explanation(
        "warning",
        "camera {part} of {subject} shows an almost even picture",
        "Look whether it is covered, dirty, turned away or without light",
    ),
    HealthKind.UPLINK_BUDGET: Explanation(
        "warning",
        "{subject} has little left of its uplink budget: {detail}",
        "Wait for the next period, or raise the budget in its settings",
    ),
    HealthKind.POOL_EMPTY: Explanation(
        "critical", "{subject} has no worker", "Start one with latentbus worker, or look why none stays online"
    ),
    HealthKind.CODEC_MISMATCH: Explanation(
        "critical", "no worker of {subject} has the codec of {detail}", "Deploy the same codec folder on both sides"
    ),
    HealthKind.BACKLOG_GROWING: Explanation(
        "warning",
        "the workers of {subject} hold almost as many frames as they may: {detail}",
        "Start another worker, or ask less often",
    ),
    HealthKind.DEADLINES_MISSED: Explanation(
        "warning",
        "questions to {subject} miss their deadlines: {detail}",
        "Look at the load of its pool and at its uplink; allow more time, or ask less often",
    ),
    HealthKind.STOP_SHIFT: Explanation(
        "warning",
        "answers of {subject} are unlike those of the stop rule's calibration; short prefixes are not trusted",
        "Calibrate on frames of your own cameras with latentbus calibrate",
    ),
    HealthKind.DISK_FILLING: Explanation(
        "warning",
        "the disk of {subject} is almost full: {part}",
        "Free some room, or lower what is kept there",
    ),
    HealthKind.CLOCK_WRONG: Explanation(
        "warning",
        "the clock of {subject} is wrong or was set",
        "Let it be set by NTP: certificates and the uplink's budget need the date",
    ),
    HealthKind.CERTIFICATE_ENDING: Explanation(
        "warning",
        "a certificate of {subject} ends soon: {part}",
        "Renew it: docs/security.md says how",
    ),
}
_UNKNOWN: Final = Explanation(
    "warning", "{subject} reports a condition that this version does not know", "Update this side, or read its log"
)


@dataclass(frozen=True, slots=True)
class Sign:
    """Whether a condition holds at one moment.

    Attributes:
        kind: a :class:`HealthKind`, or what a newer peer calls it.
        subject: what kind of thing it is about.
        name: its name.
        bad: it holds, or not; None between the thresholds, where it stays as it was.
        part: camera, folder or file that it is about.
        detail: figures, in words.
        severity: how bad it is; None as the explanation says.
    """

    kind: str
    subject: Subject
    name: str
    bad: bool | None = True
    part: str = ""
    detail: str = ""
    severity: Severity | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about, whatever it says."""
        return self.kind, f"{self.subject} {self.name}", self.part


def severity_of(sign: Sign) -> Severity:
    """How bad a condition is."""
    return sign.severity or EXPLANATIONS.get(sign.kind, _UNKNOWN).severity


def text_of(sign: Sign) -> str:
    """What a condition is."""
    shown = EXPLANATIONS.get(sign.kind, _UNKNOWN)
    return shown.text.format(subject=f"{sign.subject} {sign.name}", part=sign.part, detail=sign.detail)


def advice_of(sign: Sign) -> str:
    """What to do about it."""
    return EXPLANATIONS.get(sign.kind, _UNKNOWN).advice


def worst_first(signs: list[Sign]) -> list[Sign]:
    """Conditions in the order in which a person should look at them."""
    return sorted(signs, key=lambda sign: (SEVERITIES.index(severity_of(sign)), sign.key))
