"""``latentbus ask``: one question to one camera."""

from __future__ import annotations

from typing import Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, IdOption, PortOption, broker_settings
from latentbus.options.arguments import checked_name
from schemas.types import AnswerType

EPILOG = (
    "Examples: latentbus ask gate 'is there a red car?' --type yes_no --host broker.example; "
    "latentbus ask gate 'was the gate open?' --ago 5; "
    "latentbus ask gate 'what colour is it?' --frame 1a2b3c4d-17"
)


def ask(
    camera: Annotated[str, typer.Argument(help="Name of the camera.")],
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    answer_type: Annotated[AnswerType, typer.Option("--type", help="What the answer may look like.")] = AnswerType.TEXT,
    option: Annotated[
        list[str] | None, typer.Option(help="An answer to choose from, with --type choice; give two or more.")
    ] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until the terminal outcome.", min=0.5, max=3600)] = 30,
    query_id: Annotated[
        str | None,
        typer.Option(
            help="Key of the question; asked again under it by the same client, the same answer comes. On a broker "
            "without user names each command is a client of its own."
        ),
    ] = None,
    ago: Annotated[
        float | None,
        typer.Option(
            help="Ask the newest kept frame that is at least so many seconds old, in place of the next one; the answer "
            "says how old it was.",
            min=0,
            max=86_400,
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(help="Ask this frame, which an earlier answer names, in place of the next one: a follow-up."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Ask only where an edge that is online serves the camera; --no-check waits for one.")
    ] = True,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False,
) -> None:
    """Ask a camera one question and print the answers as they get better.

    Exit status: 0 answered, 3 degraded (there is an answer, and it is not safe), 1 any other outcome or none, 2 wrong
    settings or no such camera. The broker's password comes from the settings file or from LATENTBUS_BROKER__PASSWORD.
    """
    from latentbus.client.ask import Asking, ask_and_print
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    configure_logging("error")  # a broker that is not there is told once, at the end
    broker = broker_settings(config, host, port)
    asking = Asking.create(
        camera,
        question,
        answer_type,
        deadline_s=deadline,
        query_id=query_id,
        client=checked_name("--id", name) or broker.username,
        options=option or (),
        ago_s=ago,
        frame=frame,
    )
    raise typer.Exit(
        run(lambda stop: ask_and_print(broker, asking, stop, as_json=as_json, check=check), drain_timeout_s=2)
    )
