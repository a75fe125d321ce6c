"""Times and bounds of the protocol machines. All durations in seconds on the machine's own monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BASE_LEASE_S: Final = 3.0
"""How long an edge waits for a first word after an open message has left its uplink. A worker that will need longer
says so with *accept*; three seconds are a few round trips of a satellite link and far above the time of one pass."""


@dataclass(frozen=True, slots=True)
class EdgeProtocolSettings:
    """Bounds of an edge session.

    Attributes:
        base_lease_s: silence after an open message before the frame is opened again.
        attempts: opens of one frame before its queries fail.
        backoff_s: wait before the second open; doubled for each further one.
        max_backoff_s: longest such wait: a query's deadline is some seconds away.
        max_busy_wait_s: longest wait after *busy*, which loses no attempt: a question with hours of time is asked again
            now and then until its deadline.
        grace_s: after a reconnect, silence for so long means that the worker is lost: it hears of the connection and
            speaks at once.
        max_frames_per_camera: unfinished frames of one camera; beyond it the oldest standing queries are superseded.
        terminal_cache: decided ad-hoc queries that are remembered, to answer a repeated ask.
    """

    base_lease_s: float = BASE_LEASE_S
    attempts: int = 3
    backoff_s: float = 0.5
    max_backoff_s: float = 4.0
    max_busy_wait_s: float = 450.0
    grace_s: float = 1.5
    max_frames_per_camera: int = 16
    terminal_cache: int = 1024

    def wait_after_s(self, attempt: int) -> float:
        """Wait after an attempt came to nothing."""
        return min(self.max_backoff_s, self.backoff_s * 2.0 ** min(16, max(0, attempt - 1)))

    def wait_after_busy_s(self, attempt: int) -> float:
        """Least wait after *busy*: none of its own at first, then growing, so that a day has room for all attempts."""
        return float(min(self.max_busy_wait_s, self.backoff_s * 2.0 ** min(16.0, max(0, attempt - 8) / 4)))


@dataclass(frozen=True, slots=True)
class WorkerProtocolSettings:
    """Bounds of a worker session.

    Attributes:
        base_lease_s: what an edge grants without *accept*.
        max_lease_s: longest lease that a worker asks for; it renews at half time, so a longer one would only make its
            death noticed later.
        capacity_frames: frames admitted and not yet decided; beyond it the worker hands over or says *busy*.
        capacity_bytes: latent payload held for them.
        finalise_margin_s: a query is decided this long before its deadline, so that the answer still arrives in time.
        repeat_s: after a reconnect the last words are repeated, but not sooner after them.
        refine_timeout_s: silence after a refine request before it is repeated.
        refine_tries: refine requests for the same latents.
        text_timeout_s: silence after a request for question texts before it is repeated.
        standing_wait_share: of the time that a standing question has left, what it may spend until its first pass; a
            frame that would wait longer is not admitted. The rest is for refines.
        handover_wait_s: expected wait from which a parked frame is offered to a less loaded worker.
        max_hops: hand-overs of one frame.
        terminal_cache: decided queries whose answers are kept, to repeat them to an edge that missed them.
        text_cache: question texts that are kept, and reply addresses of ad-hoc questions.
        text_cache_bytes: memory of those texts, about.
        camera_frames: of ``capacity_frames``, what one camera may take: four times what an edge has unfinished.
        key_frame_bytes: key frames that are kept: two of each of 8,000 cameras at 2 KB.
        kept_frames: answered frames whose latents are kept for follow-ups.
        kept_bytes: payload of those latents.
        load_interval_s: time between two reports of its load to the other workers.
        load_on_change_s: the same when the load has changed: they hand over by it, so a change is told soon, but not
            with every frame.
    """

    base_lease_s: float = BASE_LEASE_S
    max_lease_s: float = 10.0
    capacity_frames: int = 1024
    capacity_bytes: int = 16 * 1024 * 1024
    finalise_margin_s: float = 0.3
    repeat_s: float = 0.5
    refine_timeout_s: float = 2.0
    refine_tries: int = 3
    text_timeout_s: float = 1.0
    standing_wait_share: float = 0.4
    handover_wait_s: float = 1.0
    max_hops: int = 2
    terminal_cache: int = 4096
    text_cache: int = 4096
    text_cache_bytes: int = 4 * 1024 * 1024
    camera_frames: int = 64
    key_frame_bytes: int = 32 * 1024 * 1024
    kept_frames: int = 4096
    kept_bytes: int = 8 * 1024 * 1024
    load_interval_s: float = 2.0
    load_on_change_s: float = 0.5


@dataclass(frozen=True, slots=True)
class ClientProtocolSettings:
    """Times and bounds of a client session.

    Attributes:
        status_patience_s: after a connection, wait for an edge that says that it serves a camera; brokers send what
            they retain as soon as it is subscribed to.
        reply_margin_s: wait beyond a deadline: the outcome of a question that nobody answered comes at the deadline,
            plus the way.
        retry_s: wait before a question is asked again whose publish had no answer.
        idle_camera_s: the topics of a camera are read for so long after the last question to it, in case of another.
        max_questions: questions without an outcome.
        max_under_way: of these, publishes that wait for the broker's acknowledgement.
        max_watched_queries: undecided queries of watched cameras whose provisional answers are told apart.
        outcome_cache: decided queries that are remembered, to tell repeats.
    """

    status_patience_s: float = 1.0
    reply_margin_s: float = 5.0
    retry_s: float = 1.0
    idle_camera_s: float = 30.0
    max_questions: int = 4096
    max_under_way: int = 64
    max_watched_queries: int = 16_384
    outcome_cache: int = 65_536
