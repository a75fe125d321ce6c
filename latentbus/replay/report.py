"""What came of a replay, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from analysis.replay.plan import ReplayFrame, Shortfalls
from latentbus.replay.verbatim import VerbatimCount
from latentbus.reports.output_files import write_json
from schemas.counting import counted
from schemas.types import Outcome

_SHOWN_GAPS = 5
_TOO_LATE = (Outcome.DEGRADED, Outcome.EXPIRED, Outcome.SUPERSEDED)


@dataclass(slots=True)
class CameraReport:
    """What came of virtual cameras.

    Attributes:
        planned: frames of the log that can be offered.
        frames: frames that were offered.
        outcomes: queries by terminal outcome.
        gaps: frames of which workers wanted more latents than the log holds: the frame and how many were wanted. Their
            open queries failed, with that as the reason.
        shortfalls: what of the log could not be offered.
        latents_sent: latent bytes that left, by kind of message.
        wire_bytes: bytes on the uplinks, all headers counted.
        late_s: longest time by which a frame was offered after it was due.
        hurried: the log was played faster than it was recorded, with deadlines that are shorter by as much.
        record: log that was written, if any.
    """

    planned: int = 0
    frames: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    gaps: list[tuple[ReplayFrame, int]] = field(default_factory=list)
    shortfalls: Shortfalls = field(default_factory=Shortfalls)
    latents_sent: Counter[str] = field(default_factory=Counter)
    wire_bytes: int = 0
    late_s: float = 0.0
    hurried: bool = False
    record: Path | None = None

    @property
    def exit_status(self) -> int:
        """0 when every frame that the log holds was offered and had the latents that were wanted; 1 otherwise."""
        lacks = self.shortfalls
        left_out = lacks.frames_damaged + lacks.frames_too_short + lacks.queries_without_text.total()
        return int(self.frames < max(1, self.planned) or bool(self.gaps) or bool(left_out))

    def print(self, console: Console, logs: tuple[Path, ...]) -> None:
        """Say it."""
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "none"
        of = "" if self.frames == self.planned else f" of {self.planned}"
        console.print(f"{self.frames}{of} frames offered; queries: {outcomes}")
        console.print(
            f"uplinks: {counted(self.wire_bytes, 'byte')} on the wire, "
            f"latents {counted(self.latents_sent['open'], 'byte')} in open messages "
            f"and {self.latents_sent['chunk']} in chunks; frames at most {self.late_s:.1f} s late"
        )
        if self.hurried and any(self.outcomes[outcome] for outcome in _TOO_LATE):
            console.print(
                "[yellow]workers may have been too slow for deadlines that were divided by the rate; "
                "--deadlines recorded keeps them[/]"
            )
        for line in shortfall_lines(self.shortfalls):
            console.print(line, style="yellow", markup=False)
        if self.gaps:
            console.print(
                f"[yellow]{counted(len(self.gaps), 'frame')} failed because workers wanted latents that the log lacks; "
                "record with --full-latents at the edge to have them:[/]"
            )
            for frame, wanted in self.gaps[:_SHOWN_GAPS]:
                console.print(
                    f"[yellow]  {frame.latent.camera}/{frame.latent.frame}: recording lacks latents "
                    f"{frame.latent.available}..{wanted}[/]"
                )
            if len(self.gaps) > _SHOWN_GAPS:
                console.print(f"[yellow]  and {len(self.gaps) - _SHOWN_GAPS} more[/]")
        if self.record is not None:
            console.print(f"compare: latentbus compare {' '.join(map(str, logs[:1]))} {self.record}", markup=False)

    def figures(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "mode": "cameras",
            "planned": self.planned,
            "frames": self.frames,
            "outcomes": {str(outcome): count for outcome, count in sorted(self.outcomes.items())},
            "frames_lacking_latents": [
                {
                    "camera": frame.latent.camera,
                    "frame": str(frame.latent.frame),
                    "available": frame.latent.available,
                    "wanted": wanted,
                }
                for frame, wanted in self.gaps
            ],
            "frames_without_latents": self.shortfalls.frames_without_latents,
            "frames_damaged": self.shortfalls.frames_damaged,
            "why_damaged": self.shortfalls.why_damaged,
            "frames_too_short": self.shortfalls.frames_too_short,
            "frames_without_text": self.shortfalls.frames_without_text,
            "queries_without_text": dict(self.shortfalls.queries_without_text),
            "open_latent_bytes": self.latents_sent["open"],
            "chunk_latent_bytes": self.latents_sent["chunk"],
            "wire_bytes": self.wire_bytes,
            "late_s": round(self.late_s, 6),
        }


@dataclass(slots=True)
class VerbatimReport:
    """What came of a verbatim replay.

    Attributes:
        count: what became of the messages.
        not_understood: messages about a renamed camera whose payload stayed as recorded, by topic family.
        duration_s: time that it took.
    """

    count: VerbatimCount
    not_understood: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 when everything was published; 1 when something was refused or lost, or there was nothing."""
        return int(not self.count.published or bool(self.count.refused) or bool(self.count.lost))

    def print(self, console: Console) -> None:
        """Say it."""
        count = self.count
        rate = count.published / self.duration_s if self.duration_s > 0 else 0.0
        console.print(
            f"{counted(count.published, 'message')} published in {self.duration_s:.1f} s ({rate:.0f} a second)"
        )
        if count.retained:
            console.print(f"{count.retained} of them are key frames from before the part that was played")
        if count.local:
            console.print(f"left out, never on a broker ($ topics): {counted(count.local, 'message')}")
        if count.held:
            console.print(
                f"[yellow]left out: {counted(count.held.total(), 'message')} on {counted(len(count.held), 'topic')}, "
                "which would replace what the broker retains there (--retained replaces it)[/]"
            )
        if count.repeated or count.lost:
            console.print(
                f"[yellow]the connection broke: {counted(count.repeated, 'QoS 1 message')} sent again, "
                f"{count.lost} QoS 0 lost[/]"
            )
        for reason, times in count.refused.most_common(_SHOWN_GAPS):
            console.print(f"{times} refused: {reason}", style="red", markup=False)
        for family, times in self.not_understood.items():
            console.print(
                f"[yellow]not decoded: {counted(times, 'message')} on {family}; camera renamed in the topic only, "
                "payload as recorded[/]"
            )

    def figures(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "mode": "verbatim",
            "published": self.count.published,
            "retained": self.count.retained,
            "refused": self.count.refused.total(),
            "lost": self.count.lost,
            "repeated": self.count.repeated,
            "local": self.count.local,
            "held": dict(self.count.held),
            "not_remapped": dict(self.not_understood),
            "duration_s": round(self.duration_s, 6),
        }


def shortfall_lines(shortfalls: Shortfalls) -> list[str]:
    """What of a log cannot be offered, in words."""
    lines = [
        (
            shortfalls.frames_without_latents,
            "frames are only named in the log: they were opened before it began, or never",
        ),
        (
            shortfalls.frames_damaged,
            f"frames were left out: their latents do not decode, the first: {shortfalls.why_damaged}",
        ),
        (
            shortfalls.frames_too_short,
            "frames were left out: the log holds fewer latents than the base prefix asked for",
        ),
        (shortfalls.frames_without_text, "frames were left out: the log has no text of their questions"),
    ]
    said = [f"{count} {text}" for count, text in lines if count]
    if shortfalls.queries_without_text:
        names = ", ".join(sorted(shortfalls.queries_without_text)[:_SHOWN_GAPS])
        said.append(
            f"{shortfalls.queries_without_text.total()} queries were left out, the log has no text of {names}: "
            "record lb/v2/question/# and lb/v2/ask/# too"
        )
    return said


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """Write a report for a program.

    Raises:
        ConfigError: it cannot be written.
    """
    write_json(path, figures)
