"""Home Assistant's own parser on what the gateway publishes for it, and on the examples; run with its own Python.

check_home_assistant.py MESSAGES.json EXAMPLES, with {"discovery": [description, ...], "states": {topic: state, ...}}

Home Assistant reads descriptions of devices since 2024.11. An older one gets each entity as such a version would make
it of the description: with the device, the origin and the availability of all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

from homeassistant.components.automation.config import PLATFORM_SCHEMA as AUTOMATION_SCHEMA
from homeassistant.components.mqtt import abbreviations, binary_sensor, discovery, sensor
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers.template import Template
from homeassistant.util.yaml import load_yaml

SCHEMAS = {"binary_sensor": binary_sensor.DISCOVERY_SCHEMA, "sensor": sensor.DISCOVERY_SCHEMA}


def expanded(description: dict[str, Any]) -> dict[str, Any]:
    """A description with the names that abbreviations stand for, checked as a whole where that is known."""
    if hasattr(discovery, "_replace_all_abbreviations") and hasattr(discovery, "DEVICE_DISCOVERY_SCHEMA"):
        discovery._replace_all_abbreviations(description)  # noqa: SLF001
        discovery.DEVICE_DISCOVERY_SCHEMA(deepcopy(description))
        return description
    return renamed(description, {**abbreviations.ABBREVIATIONS, "cmps": "components", "p": "platform"})


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The same for a version that knows no devices."""
    if isinstance(value, list):
        return [renamed(one, names) for one in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, one in value.items():
        name = names.get(key, key)
        if name == "device":
            one = renamed(one, abbreviations.DEVICE_ABBREVIATIONS)
        elif name == "origin":
            one = renamed(one, abbreviations.ORIGIN_ABBREVIATIONS)
        elif name == "components":
            one = {component: renamed(config, names) for component, config in one.items()}
        found[name] = renamed(one, names) if name not in ("device", "origin", "components") else one
    return found


def entities(description: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Platform and configuration of each entity; those that are named as removed left out."""
    shared = {name: description[name] for name in ("device", "origin", "availability", "availability_mode")}
    found = []
    for config in description["components"].values():
        platform = config.pop("platform")
        if config:
            found.append((platform, {**shared, **config}))
    return found


async def check(messages: dict[str, Any]) -> int:
    """Check every description and state; the number of entities."""
    hass = HomeAssistant("")
    count = 0
    for description in messages["discovery"]:
        for platform, config in entities(expanded(description)):
            checked = SCHEMAS[platform](config)
            count += 1
            lost = sorted(set(config) - set(checked) - {"options"})
            if lost:
                raise SystemExit(f"not read: {', '.join(lost)} of {config['unique_id']}")
            state = json.dumps(messages["states"][config["state_topic"]])
            shown = Template(checked["value_template"].template, hass).async_render_with_possible_json_value(state)
            expected = messages["states"][config["state_topic"]]["state"]
            if shown != str(expected):
                raise SystemExit(f"{config['unique_id']} shows {shown!r}, not {expected!r}")
            if platform == "binary_sensor" and shown not in (
                checked["payload_on"],
                checked["payload_off"],
                "None",
            ):
                raise SystemExit(f"{config['unique_id']}: {shown!r} is neither on nor off")
            for entry in checked["availability"]:
                if "value_template" in entry:
                    template = Template(entry["value_template"].template, hass)
                    said = [
                        template.async_render_with_possible_json_value(json.dumps({"online": online}))
                        for online in (True, False)
                    ]
                    if said != [entry["payload_available"], entry["payload_not_available"]]:
                        raise SystemExit(f"availability of {config['unique_id']} reads as {said}")
    return count


def check_examples(folder: Path) -> tuple[int, int]:
    """Check the files of the examples; the number of automations and sensors."""
    automations = load_yaml(str(folder / "automations.yaml"))
    for automation in automations:
        checked = AUTOMATION_SCHEMA(automation)
        cv.SCRIPT_SCHEMA(checked["action"] if "action" in checked else checked["actions"])
    sensors = load_yaml(str(folder / "mqtt.yaml"))["binary_sensor"]
    for entry in sensors:
        binary_sensor.PLATFORM_SCHEMA_MODERN(entry)
    return len(automations), len(sensors)


if __name__ == "__main__":
    entity_count = asyncio.run(check(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    automation_count, sensor_count = check_examples(Path(sys.argv[2]))
    print(
        f"Home Assistant {__version__}: {entity_count} entities, {automation_count} automations and {sensor_count} "
        "sensor of the examples are good"
    )
