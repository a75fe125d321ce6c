"""Checks of a settings file that concern several of its sections; they look at values that may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.edge_settings import undefined_in
from pipeline.config.settings_file import Location


def section(values: Any, *keys: str) -> Mapping[str, Any]:
    """A section of values that may be wrong; empty where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def sites_of(values: Mapping[str, Any]) -> Iterator[tuple[Location, Mapping[str, Any]]]:
    """Where the sites of a file stand, with their values, right or wrong."""
    if isinstance(values.get("edge"), Mapping):
        yield ("edge",), section(values, "edge")
    for name in section(values, "sites"):
        yield ("sites", name), section(values, "sites", name)


def undefined_questions(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check: questions that a camera is asked and that nobody has written down."""
    for place, site in sites_of(values):
        cameras = {name: section(camera).get("questions") for name, camera in section(site, "cameras").items()}
        asked = {name: questions for name, questions in cameras.items() if isinstance(questions, list)}
        defined = {*section(site, "questions"), *section(values, "questions")}
        known = ", ".join(sorted(defined)) or "none"
        for camera, index, question in undefined_in(asked, defined):
            where = (*place, "cameras", camera, "questions", index)
            yield where, f"{question} is not defined under {'.'.join(map(str, place))}.questions ({known})"


def undefined_channels(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check: channels that the alert of a question tells and that the gateway of the file does not have."""
    if "gateway" not in values:
        return
    alerts = section(values, "gateway", "alerts")
    channels = {*section(alerts, "webhooks"), *section(alerts, "addresses")}
    known = ", ".join(sorted(channels)) or "none"
    for place, site in (((), values), *sites_of(values)):
        for question in section(site, "questions"):
            named = section(site, "questions", question, "alert").get("channels")
            for index, channel in enumerate(named if isinstance(named, list) else ()):
                if isinstance(channel, str) and channel not in channels:
                    where = (*place, "questions", question, "alert", "channels", index)
                    yield where, f"{channel} is no webhook or address under gateway.alerts ({known})"


def unknown_in_profiles(values: Mapping[str, Any]) -> Iterator[tuple[Location, str]]:
    """A check of a whole file: questions and alerts that a profile names and that are nowhere."""
    places = [((), values), *sites_of(values)]
    questions = {question for _, site in places for question in section(site, "questions")}
    alerts = {*questions, *section(values, "gateway", "alerts", "rules")}
    for place, site in places:
        for name in section(site, "profiles"):
            for key, known in (("questions", questions), ("alerts", alerts)):
                named = section(site, "profiles", name).get(key)
                for index, entry in enumerate(named if isinstance(named, list) else ()):
                    if isinstance(entry, str) and entry not in known:
                        yield (
                            (*place, "profiles", name, key, index),
                            f"no {entry} ({', '.join(sorted(known)) or 'none'})",
                        )
