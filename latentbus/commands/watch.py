"""``latentbus watch``: answers and outcomes of a fleet, live."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, IdOption, PortOption, broker_settings
from latentbus.options.arguments import checked_name
from schemas.errors import ConfigError

EPILOG = (
    "Examples: latentbus watch -H broker.example | latentbus watch --site north --question car --final --json | "
    "latentbus watch --owner client/alice -C 1 -W 30 | latentbus watch -t 'lb/v2/control/+'"
)


def watch(
    camera: Annotated[list[str] | None, typer.Option(help="Only this camera; repeatable.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only cameras and questions of this site; repeatable.")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Only the question of this id; repeatable.")] = None,
    owner: Annotated[
        list[str] | None,
        typer.Option(
            help="Only questions of this owner: site/NAME, client/NAME, or site for all standing ones and client for "
            "all ad-hoc ones; repeatable."
        ),
    ] = None,
    final: Annotated[bool, typer.Option("--final", help="Only how questions end, no provisional answers.")] = False,
    topic: Annotated[
        list[str] | None,
        typer.Option(
            "--topic", "-t", help="Every message of this MQTT topic filter in its place, decoded; repeatable."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-C", help="End after so many messages.", min=1)] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", "-W", help="End after so many seconds.", min=0.1, max=31_536_000)
    ] = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Show answers and outcomes of all questions as they come, of whomever.

    Exit status: 0 after Ctrl-C or as many messages as were wanted, 1 when the time was over before that or nothing came
    within it, or when the broker cannot be reached, 2 wrong settings.
    """
    from latentbus.client.watching import Until, Wanted, watch_and_print, watch_topics_and_print
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("warning")  # a connection that breaks is said on standard error
    broker = broker_settings(config, host, port)
    client = checked_name("--id", name)
    until = Until(count, timeout)
    if topic:
        if camera or site or question or owner or final:
            raise ConfigError("--topic", "shows topics as they are: leave it out, or the other filters")
        status = run(
            lambda stop: watch_topics_and_print(broker, topic, until, stop, as_json=as_json, name=client),
            drain_timeout_s=2,
        )
        raise typer.Exit(status)
    wanted = Wanted(
        frozenset(_names("--site", site)),
        frozenset(_names("--camera", camera)),
        frozenset(_names("--question", question)),
        frozenset(_owner(one) for one in owner or ()),
        final,
    )
    status = run(
        lambda stop: watch_and_print(broker, wanted, until, stop, as_json=as_json, name=client), drain_timeout_s=2
    )
    raise typer.Exit(status)


def _names(option: str, given: list[str] | None) -> list[str]:
    for name in given or ():
        checked_name(option, name)
    return given or []


def _owner(text: str) -> str:
    kind, slash, name = text.partition("/")
    if kind not in ("site", "client") or (slash and not name):
        raise ConfigError("--owner", f"{text!r} is none: write site/NAME, client/NAME, site or client")
    if slash:
        checked_name("--owner", name)
    return text
