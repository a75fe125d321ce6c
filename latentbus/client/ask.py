"""``latentbus ask``: ask one question, print its answers, and say why none came."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.markup import escape

from latentbus.client.client import Client
from latentbus.client.mailbox import Told
from latentbus.client.questions import ask_of, client_name
from latentbus.options.arguments import checked_name
from latentbus.reports.safe_console import SafeConsole
from pipeline.config.broker_settings import BrokerSettings
from pipeline.node.runtime import Stop
from pipeline.protocol.settings import ClientProtocolSettings
from schemas.counting import counted
from schemas.errors import CameraUnknownError, ConfigError, NoOutcomeError, QuestionRefusedError
from schemas.identity import ad_hoc_query_id
from schemas.messages import Ask, QueryOutcome
from schemas.types import AnswerType, Outcome

CONNECT_TIMEOUT_S = 10.0
EXIT_DEGRADED: Final = 3
SETTINGS = ClientProtocolSettings()
_OPTIONS: Final = {
    "query_id": "--query-id",
    "text": "QUESTION",
    "deadline_ms": "--deadline",
    "options": "--option",
    "ago_ms": "--ago",
    "frame": "--frame",
}


@dataclass(frozen=True, slots=True)
class Asking:
    """A question that is about to be asked.

    Attributes:
        camera: name of the camera.
        message: what is published.
        client: who asks: the last level of its ask topic, and the name below which the replies come.
    """

    camera: str
    message: Ask
    client: str

    @classmethod
    def create(
        cls,
        camera: str,
        text: str,
        answer_type: AnswerType,
        *,
        deadline_s: float,
        query_id: str | None = None,
        client: str | None = None,
        options: Sequence[str] = (),
        ago_s: float | None = None,
        frame: str | None = None,
    ) -> Asking:
        """Draw the names that the question goes under.

        Args:
            camera: name of the camera.
            text: the question.
            answer_type: what the answer may look like.
            deadline_s: time to the terminal outcome.
            query_id: id of the question among those of this client; drawn unless given.
            client: who asks; see :func:`latentbus.client.questions.client_name`.
            options: answers to choose from, for answer type ``choice``.
            ago_s: ask the newest kept frame that is at least so old, in place of the next one.
            frame: ask this frame, in place of the next one.

        Raises:
            ConfigError: camera, text, query id, age or frame cannot be asked.
        """
        checked_name("CAMERA", camera)
        message = ask_of(
            text,
            answer_type,
            deadline_s=deadline_s,
            query_id=query_id,
            options=options,
            ago_s=ago_s,
            frame=frame,
            named=_OPTIONS,
        )
        return cls(camera, message, client_name(client))

    @property
    def query_id(self) -> str:
        """Key of the query in the fleet, as answers and outcomes carry it."""
        return ad_hoc_query_id(self.camera, self.client, self.message.query_id)


async def ask_and_print(
    broker: BrokerSettings, asking: Asking, stop: Stop, *, as_json: bool, check: bool = True
) -> int:
    """Ask, print the answers as they come, and return the exit status; without an answer also what the cause may be.

    Args:
        broker: where to ask.
        asking: the question.
        stop: ends the wait.
        as_json: print messages as they are.
        check: ask only where an edge says that it serves the camera.

    Returns:
        0 answered, 3 degraded, 1 any other outcome or none.

    Raises:
        ConfigError: no edge that is online serves the camera, or it cannot read the question.
        ConnectionLostError: the broker cannot be reached.
    """
    client = Client(broker, name=asking.client, settings=SETTINGS, connect_timeout_s=CONNECT_TIMEOUT_S)
    async with client:
        answers = client.follow(asking.camera, asking.message, check=check)
        follow = asyncio.create_task(print_answers(answers, as_json=as_json), name="answers")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({follow, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not follow.done():
                return 1
            outcome = follow.result()
        except CameraUnknownError as error:
            raise ConfigError("CAMERA", f"{error.problem}; --no-check asks and waits all the same") from None
        except QuestionRefusedError as error:
            raise ConfigError("QUESTION", error.problem) from None
        except NoOutcomeError as error:
            _complain(f"no outcome within {error.limit_s:.0f} s")
            _complain(error.cause)
            return 1
        finally:
            follow.cancel()
            stopped.cancel()
            await asyncio.gather(follow, stopped, return_exceptions=True)
        if outcome in (Outcome.EXPIRED, Outcome.FAILED):
            # A failed one has said why; only what the statuses show for certain is added.
            _complain(client.cause(asking.camera, certain=outcome is Outcome.FAILED))
        return {Outcome.ANSWERED: 0, Outcome.DEGRADED: EXIT_DEGRADED}.get(outcome, 1)


def _complain(problem: str | None) -> None:
    if problem is not None:
        sys.stderr.write(f"latentbus: {problem}\n")


async def print_answers(answers: AsyncIterator[Told], *, as_json: bool) -> Outcome:
    """Print the answers to a question as they come, and return its outcome."""
    console = SafeConsole(highlight=False)
    async for message in answers:
        if as_json:
            # ASCII: JSON stays JSON on a terminal that is not UTF-8.
            sys.stdout.write(json.dumps(message.model_dump(mode="json")) + "\n")
            sys.stdout.flush()
        else:
            console.print(line_of(message), soft_wrap=True)
        if message.outcome is not None:
            return Outcome(message.outcome)
    raise AssertionError("the answers of a question end with its outcome")


def line_of(message: Told) -> str:
    """An answer or outcome as markup of one line."""
    if isinstance(message, QueryOutcome):
        return f"[red]{message.outcome}[/]  {escape(message.reason)}"
    kind = message.outcome or "provisional"
    style = {"answered": "green", "provisional": "yellow"}.get(kind, "red")
    cost = f"{counted(message.latents, 'latent')}, {counted(message.payload_bytes, 'byte')}"
    detail = f"score {message.score:.2f}, {cost}, {message.worker}, frame {message.frame}"
    if message.age_ms is not None:
        age = "of unknown age" if isinstance(message.age_ms, str) else f"{message.age_ms / 1000:.1f} s old"
        detail += f", {age}"
    if message.reason:
        detail += f", {message.reason}"
    return f"[{style}]{kind}[/]  {escape(message.text or '-')}  [dim]({escape(detail)})[/]"
