"""The work of ``latentbus what-if``: the log in the simulator, recorded, as recorded and as it might have been."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from analysis.clocks import align
from analysis.merged import merged
from analysis.traffic import Traffic, read_traffic
from analysis.workload import Workload, read_workload
from latentbus.reports.output_files import write_json
from latentbus.reports.safe_console import SafeConsole
from latentbus.what_if.figures import Figures, recorded_figures
from latentbus.what_if.options import WhatIfOptions
from latentbus.what_if.simulate import Changes, Parameters, SimulatedRun, recorded_parameters, simulate_log
from pipeline.codec.bundled import bundled_codec_dir
from pipeline.codec.spec import STOP_FILE, TABLES_FILE, load_codec_spec
from pipeline.codec.stop_file import load_stop_rule
from pipeline.codec.tables import FrequencyTables
from pipeline.node.node_log import CONFIG_ATTACHMENTS
from pipeline.protocol.stop_rule import NEVER, StopRule
from pipeline.recording.reader import open_logs
from schemas.errors import ArtifactError, ConfigError

SETTINGS_SUFFIXES = (".yaml", ".yml")
_ROWS = {
    "queries": "queries",
    "not_asked": "queries of frames not taken",
    "uplink_bytes": "uplink bytes on the wire",
    "latent_bytes": "latent bytes",
    "opens": "open messages",
    "refines": "refine requests",
    "mean_latents": "latents an answer",
    "answer_ms_p50": "answer ms, median",
    "answer_ms_p95": "answer ms, 95 %",
    "answer_ms_p99": "answer ms, 99 %",
    "texts_differ": "answers that differ",
    "texts_unknown": "answers not in the log",
}


@dataclass(frozen=True, slots=True)
class WhatIfReport:
    """Recorded and simulated figures side by side.

    Attributes:
        recorded: what the log says.
        as_recorded: simulations with the recorded parameters.
        what_if: simulations with the changes; empty when nothing was changed.
        parameters: of the recorded fleet, as far as the log tells.
        changed: parameters with the changes.
        notes: what was assumed or left out.
    """

    recorded: Figures
    as_recorded: list[SimulatedRun]
    what_if: list[SimulatedRun]
    parameters: Parameters
    changed: Parameters
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "recorded": self.recorded.to_json(),
            "as_recorded": [_run_json(run) for run in self.as_recorded],
            "what_if": [_run_json(run) for run in self.what_if],
            "recorded_parameters": _parameters_json(self.parameters),
            "what_if_parameters": _parameters_json(self.changed),
            "notes": self.notes,
        }

    def print(self, console: Console) -> None:
        """Print the table and the notes."""
        columns: list[tuple[str, Figures]] = [("recorded", self.recorded)]
        columns += [(_title("as recorded", run, self.as_recorded), run.figures) for run in self.as_recorded]
        columns += [(_title("what if", run, self.what_if), run.figures) for run in self.what_if]
        table = Table("", *(title for title, _ in columns))
        for name, label in _ROWS.items():
            table.add_row(label, *(_cell(getattr(figures, name)) for _, figures in columns))
        for outcome in sorted({outcome for _, figures in columns for outcome in figures.outcomes}):
            table.add_row(outcome, *(str(figures.outcomes.get(outcome, 0)) for _, figures in columns))
        console.print(table)
        for note in self.notes:
            console.print(f"- {note}")


def what_if(options: WhatIfOptions, console: Console) -> WhatIfReport:
    """Simulate a log.

    Args:
        options: what is asked for.
        console: where progress is shown.

    Raises:
        RecordingError: a log cannot be read.
        ArtifactError: the codec folder is missing something.
        ConfigError: the log has nothing to simulate, or an option does not fit it.
    """
    with open_logs(options.logs) as logs:
        clocks = align(logs)
        traffic = read_traffic(merged(logs))
        attached = logs.attachments()
    workload = read_workload(traffic)
    notes = [str(clock) for clock in clocks]
    codec = options.codec or bundled_codec_dir()
    tables = _tables(codec, traffic, given=options.codec is not None)
    if tables is None:
        notes.append(f"{codec} is not the log's codec: sizes of ranges that were not recorded as such are estimates")
    stop_rule = _recorded_rule(attached, codec, known=tables is not None)
    configs = _configs(attached)
    recorded = recorded_parameters(
        workload,
        traffic,
        stop_rule,
        site_kbps=_site_kbps(configs, workload, options.recorded_kbps, notes),
        max_batch_frames=_max_batch_frames(configs),
        priorities=_priorities(configs),
    )
    changes = Changes(
        site_kbps=options.site_kbps,
        workers=options.workers,
        frame_ms=options.frame_ms,
        stop_rule=_other_rule(options, stop_rule, notes),
        base_latents=options.base_latents,
        order=options.order,
    )
    if not workload.model.batches and options.frame_ms is None:
        raise ConfigError("--frame-ms", "the log has no answer from which the model's time could be measured: give it")
    changed = changes.apply(recorded)
    with _progress(console) as progress:
        as_recorded = _simulate(workload, recorded, tables, progress, "as recorded")
        other = [] if changes == Changes() else _simulate(workload, changed, tables, progress, "what if")
    notes += _notes(workload, traffic, recorded, as_recorded, other, changes)
    return WhatIfReport(recorded_figures(workload, traffic), as_recorded, other, recorded, changed, notes)


def run_what_if(options: WhatIfOptions, console: Console) -> None:
    """Simulate a log, print the figures to standard output and write them.

    Raises:
        ConfigError: the file for the figures cannot be written.
    """
    report = what_if(options, console)
    printed = SafeConsole(highlight=False, soft_wrap=True)
    report.print(printed)
    write_json(options.json_file, report.to_json())


def _simulate(
    workload: Workload, parameters: Parameters, tables: FrequencyTables | None, progress: Progress, name: str
) -> list[SimulatedRun]:
    task = progress.add_task(name, total=1.0)
    return simulate_log(
        workload, parameters, tables=tables, progress=lambda share: progress.update(task, completed=share)
    )


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), console=console, transient=True)


# ---- what the log says about its fleet ------------------------------------------------------------------------------


def _tables(codec: Path, traffic: Traffic, *, given: bool) -> FrequencyTables | None:
    """Tables of the codec, if it is the one that the log was recorded with."""
    fingerprint = load_codec_spec(codec).fingerprint4.hex()
    if fingerprint not in traffic.fingerprints:
        if given and traffic.fingerprints:
            recorded = ", ".join(sorted(traffic.fingerprints))
            raise ConfigError("--codec", f"{codec} has the fingerprint {fingerprint}, the log has {recorded}")
        return None
    return FrequencyTables.load(codec / TABLES_FILE)


def _recorded_rule(attached: dict[str, bytes], codec: Path, *, known: bool) -> StopRule:
    if STOP_FILE in attached:
        try:
            return StopRule.from_json(json.loads(attached[STOP_FILE]))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(STOP_FILE, f"the log's attachment is no stop rule: {error}") from None
    if not known:
        raise ConfigError("--codec", "the log has no stop rule attached: name the codec folder it was recorded with")
    return load_stop_rule(codec)


def _configs(attached: dict[str, bytes]) -> list[dict[str, Any]]:
    """Settings of the processes that recorded themselves, and those given to a recorder with ``--attach``."""
    found = []
    for name, data in attached.items():
        if name.startswith(CONFIG_ATTACHMENTS) or name.endswith(SETTINGS_SUFFIXES):
            try:
                settings = yaml.safe_load(data)
            except yaml.YAMLError:
                continue
            if isinstance(settings, dict):
                found.append(settings)
    return found


def _sections(configs: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [section for config in configs if isinstance(section := config.get(name), dict)]


def _site_kbps(
    configs: Sequence[dict[str, Any]], workload: Workload, given: float | None, notes: list[str]
) -> dict[str, float | None]:
    known = {section.get("site"): section.get("uplink_kbps") for section in _sections(configs, "edge")}
    found: dict[str, float | None] = {}
    for site in workload.sites:
        kbps = known.get(site)
        found[site] = float(kbps) if isinstance(kbps, int | float) else given
        if site not in known and given is None:
            notes.append(f"the uplink of site {site} is not in the log and taken as unlimited: give --recorded-kbps")
    return found


def _max_batch_frames(configs: Sequence[dict[str, Any]]) -> int:
    sizes = [section.get("max_batch_frames") for section in _sections(configs, "worker")]
    return max((size for size in sizes if isinstance(size, int) and size > 0), default=16)


def _priorities(configs: Sequence[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for section in _sections(configs, "edge"):
        for name, camera in (section.get("cameras") or {}).items():
            if isinstance(camera, dict) and isinstance(priority := camera.get("priority"), int | float):
                found[str(name)] = float(priority)
    return found


def _other_rule(options: WhatIfOptions, recorded: StopRule, notes: list[str]) -> StopRule | None:
    if options.stop_file is not None and options.risk is not None:
        raise ConfigError("--risk", "it makes a stop rule, and so does --stop: give one of them")
    if options.stop_file is not None:
        try:
            return StopRule.from_json(json.loads(options.stop_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError("--stop", f"{options.stop_file} is no stop rule: {error}") from None
    if options.risk is None:
        return None
    notes.append(
        f"risk {options.risk:g}: an answer is safe from a score of {1 - options.risk:g} on, as if scores were exact; "
        "for thresholds with a guarantee: latentbus codec calibrate-stop, then --stop"
    )
    # Where the recorded rule never stops early, nothing is known that could make it safe.
    row = [NEVER if threshold >= NEVER else 1 - options.risk for threshold in recorded.default[:-1]]
    limits = (1 - options.risk,) * (len(recorded.ladder) - 1) + (0.0,)
    return StopRule(recorded.ladder, (*row, 0.0), dict.fromkeys(recorded.thresholds, limits), options.risk)


# ---- notes ----------------------------------------------------------------------------------------------------------


def _notes(
    workload: Workload,
    traffic: Traffic,
    recorded: Parameters,
    as_recorded: list[SimulatedRun],
    other: list[SimulatedRun],
    changes: Changes,
) -> list[str]:
    notes = [f"{count:,} {what}" for what, count in sorted(workload.lacks.items())]
    again = sum(len(frame.trace.opens) > 1 for frame in workload.frames)
    if again:
        notes.append(f"{again:,} recorded frames were opened again: workers that stalled or died are not simulated")
    if traffic.conflicts:
        notes.append(f"{traffic.conflicts:,} terminals in the log contradict the first one")
    for name, runs in (("as recorded", as_recorded), ("what if", other)):
        notes += _gap_notes(name, runs)
    kbps = [rate for rate in recorded.site_kbps.values() if rate is not None]
    if changes.site_kbps is not None and any(changes.site_kbps > rate for rate in kbps):
        notes.append("a wider uplink would have let the edge take frames that the log does not have")
    return notes


def _gap_notes(name: str, runs: list[SimulatedRun]) -> list[str]:
    notes = []
    passes: Counter[int] = Counter()
    for run in runs:
        passes |= run.gaps.passes
    if passes:
        where = ", ".join(f"{count:,} at {prefix} latents" for prefix, count in sorted(passes.items()))
        queries = max(len(run.gaps.queries) for run in runs)
        notes.append(
            f"{name}: {queries:,} queries were asked where the log has no answer ({where}); the truth lies "
            "between the pessimistic and the optimistic column"
        )
    ranges = max((run.gaps.ranges.total() for run in runs), default=0)
    if ranges:
        notes.append(
            f"{name}: the sizes of {ranges:,} ranges of latents are not in the log, and taken from its other frames; "
            "an edge that runs with --full-latents records them"
        )
    return notes


def _title(name: str, run: SimulatedRun, runs: list[SimulatedRun]) -> str:
    return name if len(runs) == 1 else f"{name}, {run.bound}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


def _run_json(run: SimulatedRun) -> dict[str, Any]:
    return {
        "bound": run.bound.value,
        **run.figures.to_json(),
        "unknown_passes": {str(prefix): count for prefix, count in sorted(run.gaps.passes.items())},
        "unknown_sizes": {f"{start}..{stop}": count for (start, stop), count in sorted(run.gaps.ranges.items())},
        "unknown_queries": len(run.gaps.queries),
    }


def _parameters_json(parameters: Parameters) -> dict[str, Any]:
    return {
        "site_kbps": dict(parameters.site_kbps),
        "workers": parameters.workers,
        "batch_ms": round(parameters.batch_s * 1000, 3),
        "frame_ms": round(parameters.frame_s * 1000, 3),
        "max_batch_frames": parameters.max_batch_frames,
        "edge_delay_ms": {site: round(delay_s * 1000, 3) for site, delay_s in parameters.edge_delay_s.items()},
        "base_latents": parameters.base_latents,
        "order": parameters.order,
        "stop_risk": parameters.stop_rule.risk,
    }
