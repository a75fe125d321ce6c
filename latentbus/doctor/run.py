"""Puts the checks together: who this is by its settings, and in which order things are looked at."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Final

from broker_config.devices import Device, DeviceKind
from edge_nodes.check.findings import Finding, Verdict
from latentbus.client.overview import overview_of
from latentbus.client.questions import client_name
from latentbus.doctor.broker import check_broker
from latentbus.doctor.machine import check_clock, check_disks, folders_of
from latentbus.doctor.models import check_edge_models, check_worker_models, compare_fingerprint
from latentbus.doctor.tls import check_tls
from latentbus.options.validate import load_and_check
from pipeline.config.settings import LatentbusSettings
from pipeline.protocol.fleet_view import FleetView
from schemas.counting import counted
from schemas.errors import ConfigError
from schemas.messages import Status

NO_STATUS: Final = "look at them with the identity of an operator, or of a dashboard"


def check_file(path: Path) -> Finding:
    """What ``latentbus validate`` says of a settings file."""
    try:
        load_and_check(path)
    except ConfigError as error:
        return Finding("settings", Verdict.BAD, str(error), "correct the file; latentbus validate says the same")
    return Finding("settings", Verdict.GOOD, f"{path}: every key and file is good")


def device_of(settings: LatentbusSettings, name: str | None) -> Device:
    """What this identity is to the broker, by its settings.

    Args:
        settings: of the process; without edge, worker and gateway it is a client.
        name: of the client, where somebody gave one.
    """
    drawn = name or client_name(settings.broker.username)
    if settings.edge is not None:
        edge = settings.edge
        return Device(name=edge.site, kind=DeviceKind.EDGE, pool=edge.pool, cameras=tuple(edge.cameras))
    if settings.worker is not None:
        return Device(name=settings.worker.name or drawn, kind=DeviceKind.WORKER, pool=settings.worker.pool)
    if settings.gateway is not None:
        return Device(name=settings.gateway.name, kind=DeviceKind.GATEWAY)
    return Device(name=drawn, kind=DeviceKind.CLIENT)


async def diagnose(settings: LatentbusSettings, config: Path | None, name: str | None = None) -> list[Finding]:
    """Look at everything that a process with these settings needs.

    Args:
        settings: of the process.
        config: the file that they come from, if any.
        name: of the client.

    Returns:
        Settings, broker, TLS, topics, fleet, models, clock and disk, in this order.
    """
    findings = [] if config is None else [await asyncio.to_thread(check_file, config)]
    device = device_of(settings, name)
    on_broker = await check_broker(settings.broker, device, f"doctor-{secrets.token_hex(4)}")
    findings += on_broker.findings
    findings += await check_tls(settings.broker)
    if on_broker.connected:
        findings += judge_fleet(on_broker.statuses)
    findings += await asyncio.to_thread(_models, settings, on_broker.statuses)
    findings.append(check_clock())
    findings += await asyncio.to_thread(check_disks, folders_of(settings).items())
    return findings


def judge_fleet(statuses: list[Status]) -> list[Finding]:
    """What is wrong with the fleet, as far as this identity may see it."""
    fleet = FleetView()
    for status in statuses:
        fleet.observe(status)
    fleet.workers_are_seen = bool(fleet.workers)
    overview = overview_of(fleet)
    seen = f"{counted(len(overview.sites), 'site')} and {counted(len(overview.workers), 'worker')}"
    if not statuses:
        return [
            Finding("fleet", Verdict.UNKNOWN, "no status of an edge or worker may be read, or there is none", NO_STATUS)
        ]
    if not overview.problems:
        return [Finding("fleet", Verdict.GOOD, f"{seen}, nothing is wrong with them")]
    return [
        Finding("fleet", Verdict.BAD if problem.severity == "critical" else Verdict.WARN, problem.text, problem.advice)
        for problem in overview.problems
    ]


def _models(settings: LatentbusSettings, statuses: list[Status]) -> list[Finding]:
    findings: list[Finding] = []
    if settings.edge is not None:
        found, fingerprint = check_edge_models(settings.edge)
        findings += found
        if fingerprint is not None:
            findings.append(compare_fingerprint(settings.edge.pool, fingerprint, statuses, of="edge"))
    if settings.worker is not None:
        found, fingerprint = check_worker_models(settings.worker)
        findings += found
        if fingerprint is not None:
            findings.append(compare_fingerprint(settings.worker.pool, fingerprint, statuses, of="worker"))
    return findings
