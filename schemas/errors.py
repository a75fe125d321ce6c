"""The one error tree of Latentbus.

::

    LatentbusError
    ├── LocalError                     our side: the operator or this process can fix it
    │   ├── ConfigError                a setting is missing or wrong
    │   │   └── TooFewPicturesError    a codec cannot be calibrated on so few
    │   ├── ArtifactError              a model or codec file is missing, damaged or of another kind
    │   ├── RecordingError             a log cannot be written or read
    │   ├── DamagedRecordError         a record of a log does not hold what it should
    │   ├── RecordingGapError          a log does not hold the latents that a replay is asked for
    │   ├── SourceError                a camera or video file cannot be read
    │   ├── BrokerStartError           the private broker did not come up
    │   ├── HistoryError               the history of outcomes cannot be read or written
    │   ├── NotificationError          an alert did not reach a channel
    │   ├── BusError                   the connection to the broker
    │   │   ├── ConnectionLostError    it is gone; a publish in flight has an unknown fate
    │   │   │   ├── SessionTakenOverError  another process uses the same client id
    │   │   │   └── TlsError           one side does not speak TLS, or does not trust the other
    │   │   ├── NotAuthorizedError     the broker refused (reason code 135)
    │   │   ├── PublishRefusedError    the broker refused for another reason
    │   │   └── OversizeError          refused here, before it reaches a broker that would hang up
    │   ├── QuestionError              a question that this client asked has no outcome
    │   │   ├── CameraUnknownError     no edge that is online serves the camera
    │   │   ├── QuestionRefusedError   the edge cannot read it
    │   │   ├── NoOutcomeError         nothing came in time
    │   │   └── TooManyQuestionsError  this client waits for as many answers as it may
    │   ├── EventError                 events of a camera cannot be had
    │   ├── SiteConfigError            a site cannot be configured on the bus
    │   ├── InferenceError             a question that a model has not answered
    │   │   ├── ModelError             the model failed on this question or its frame
    │   │   │   └── FeatureShapeError  visual features of another shape than the model reads
    │   │   └── EngineError            what runs the model failed, was out of reach or took too long
    │   └── StateError                 a machine or object was used against its contract
    └── RemoteError                    their side: drop the message, count it, go on
        ├── WireError                  bytes on a topic that are not a valid message there
        │   ├── TopicError             the topic itself is none of ours
        │   ├── SchemaVersionError     a schema version this process does not speak
        │   └── WireSizeError          larger than the limit of its kind
        ├── BitstreamError             a latent chunk that does not decode under the tables
        ├── FingerprintError           latents of another model or codec than this pool's
        └── CameraNameError            two sites have a camera of one name

Those of the gateway's HTTP requests are remote ones too: :mod:`latentbus.gateway.errors`.

The split decides what happens next: a worker drops a peer's bad message and goes on. Its own bug ends the
message or frame that met it, see :mod:`pipeline.node.containment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.counting import counted
from schemas.types import SourceReason


class LatentbusError(Exception):
    """Base of every error that Latentbus raises on purpose.

    It can be pickled whatever its constructor takes, so that a process pool hands it on.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the constructor with the finished message alone.
        return _unpickled, (type(self), self.args, self.__dict__)


class LocalError(LatentbusError):
    """Our side: the operator or this process can fix it."""


class ConfigError(LocalError):
    """A setting is missing or wrong.

    Attributes:
        where: file and key, for example ``fleet.yaml: cameras.gate.source``.
        problem: what is wrong, and what to write instead.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class TooFewPicturesError(ConfigError):
    """A codec cannot be calibrated on so few pictures.

    Attributes:
        found: pictures that can be used.
        needed: fewest pictures in all.
        needed_by_set: of these, what each disjoint set needs.
    """

    def __init__(self, where: str, found: int, needed_by_set: Mapping[str, int]) -> None:
        self.found = found
        self.needed_by_set = dict(needed_by_set)
        self.needed = sum(needed_by_set.values())
        parts = ", ".join(f"{count} for {what}" for what, count in needed_by_set.items())
        super().__init__(
            where,
            f"{counted(found, 'picture')} can be used, {self.needed} are needed: {parts}. "
            f"Add {self.needed - found}, or accept a higher --risk",
        )


class ArtifactError(LocalError):
    """A model or codec file is missing, damaged or of another kind.

    Attributes:
        path: the file or folder.
        problem: what is wrong, and the command that makes it good.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class RecordingError(LocalError):
    """A log cannot be written or read.

    Attributes:
        path: the file.
        problem: what is wrong, and the command that makes it good.
        offset: byte of the file where it is wrong; None when it is no matter of one place.
    """

    def __init__(self, path: str, problem: str, offset: int | None = None) -> None:
        super().__init__(f"{path}: {problem}" if offset is None else f"{path}, byte {offset}: {problem}")
        self.path = path
        self.problem = problem
        self.offset = offset


class DamagedRecordError(LocalError):
    """A record of a log does not hold what it should; the reader says where it stands, as a `RecordingError`."""


class RecordingGapError(LocalError):
    """A log does not hold the latents that a replay is asked for; they are never invented.

    Attributes:
        camera: camera of the frame.
        frame: the frame, as the log has it.
        available: latents that the log holds, from 0.
        wanted: latents that were asked for, from 0.
    """

    def __init__(self, camera: str, frame: object, available: int, wanted: int) -> None:
        super().__init__(f"recording lacks latents {available}..{wanted}")
        self.camera = camera
        self.frame = frame
        self.available = available
        self.wanted = wanted


class SourceError(LocalError):
    """A camera or video file cannot be read.

    Attributes:
        source: the source as configured, credentials redacted.
        problem: what the decoder said.
        reason: the kind of problem.
    """

    def __init__(self, source: str, problem: str, reason: SourceReason = SourceReason.OTHER) -> None:
        super().__init__(f"{source}: {problem}")
        self.source = source
        self.problem = problem
        self.reason = reason


class BrokerStartError(LocalError):
    """The private broker did not come up.

    Attributes:
        log: the last lines that the broker wrote.
    """

    def __init__(self, problem: str, log: str = "") -> None:
        super().__init__(f"{problem}\n{log}" if log else problem)
        self.log = log


class HistoryError(LocalError):
    """The history of outcomes cannot be read or written.

    Attributes:
        path: the file.
        problem: what is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class NotificationError(LocalError):
    """An alert did not reach a channel.

    Attributes:
        channel: its name in the settings; the address may hold a secret.
        problem: what is wrong.
        again: whether another try may succeed.
    """

    def __init__(self, channel: str, problem: str, *, again: bool) -> None:
        super().__init__(f"channel {channel}: {problem}")
        self.channel = channel
        self.problem = problem
        self.again = again


class BusError(LocalError):
    """Something between this process and the broker."""


class ConnectionLostError(BusError):
    """The connection is gone; the fate of a publish in flight is unknown.

    Attributes:
        reason_code: MQTT 5 reason code that the broker gave; None when it gave none.
    """

    def __init__(self, problem: str, reason_code: int | None = None) -> None:
        super().__init__(problem)
        self.reason_code = reason_code

    def within(self, what: str) -> ConnectionLostError:
        """The same error for somebody who wanted something of the connection.

        Args:
            what: what came to nothing.
        """
        return ConnectionLostError(f"{what}: {self}", reason_code=self.reason_code)


class SessionTakenOverError(ConnectionLostError):
    """Another process uses the same client id.

    Attributes:
        client_id: the MQTT client identifier.
        reason_code: 142; None where the broker gives no reason, and the cause is a guess.
    """

    def __init__(self, problem: str, client_id: str, reason_code: int | None) -> None:
        super().__init__(problem, reason_code=reason_code)
        self.client_id = client_id

    def within(self, what: str) -> ConnectionLostError:  # noqa: D102 - as the base
        return SessionTakenOverError(f"{what}: {self}", client_id=self.client_id, reason_code=self.reason_code)


class TlsError(ConnectionLostError):
    """One side of the connection does not speak TLS, or does not trust the other's certificate.

    Attributes:
        setting: the setting to look at first, for example ``broker.tls.ca_file``.
    """

    def __init__(self, problem: str, setting: str) -> None:
        super().__init__(problem)
        self.setting = setting

    def within(self, what: str) -> ConnectionLostError:  # noqa: D102 - as the base
        return TlsError(f"{what}: {self}", setting=self.setting)


class NotAuthorizedError(BusError):
    """The broker refused a publish or a subscription (MQTT 5 reason code 135).

    Attributes:
        topic: topic or filter that was refused.
        reason_code: MQTT 5 reason code.
    """

    def __init__(self, topic: str, reason_code: int = 135) -> None:
        super().__init__(
            f"not authorized for {topic!r} (reason code {reason_code}): check the broker's rules for this identity"
        )
        self.topic = topic
        self.reason_code = reason_code


class PublishRefusedError(BusError):
    """The broker refused a publish or a subscription for a reason other than authorization.

    Attributes:
        topic: topic or filter that was refused.
        reason_code: MQTT 5 reason code, 128 or above.
    """

    def __init__(self, topic: str, reason_code: int, reason: str) -> None:
        super().__init__(f"broker refused {topic!r}: {reason} (reason code {reason_code})")
        self.topic = topic
        self.reason_code = reason_code


class OversizeError(BusError):
    """Refused before publishing: a broker would hang up, and the client would send it again after each reconnect.

    Attributes:
        size_bytes: size of the payload or packet.
        limit_bytes: the smallest limit that it breaks.
    """

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"{counted(size_bytes, 'byte')} for {topic!r}, over the limit of {limit_bytes}")
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class QuestionError(LocalError):
    """A question that this client asked has no outcome.

    Attributes:
        camera: the camera that was asked.
        problem: why, in words.
    """

    def __init__(self, camera: str, problem: str) -> None:
        super().__init__(f"camera {camera}: {problem}")
        self.camera = camera
        self.problem = problem


class CameraUnknownError(QuestionError):
    """No edge that is online serves the camera; nothing was asked."""


class QuestionRefusedError(QuestionError):
    """The edge cannot read the question: an older one may not know all of it.

    Attributes:
        site: the edge.
        reason: what it says.
    """

    def __init__(self, camera: str, site: str, reason: str) -> None:
        super().__init__(camera, f"edge {site} does not take it: {reason}")
        self.site = site
        self.reason = reason


class NoOutcomeError(QuestionError):
    """Nothing came by the deadline and a margin.

    Attributes:
        limit_s: how long was waited.
        cause: why, as far as the statuses of the fleet tell; None where they show nothing wrong.
    """

    def __init__(self, camera: str, limit_s: float, cause: str | None) -> None:
        no_outcome = f"no outcome within {limit_s:.0f} s"
        super().__init__(camera, no_outcome if cause is None else f"{no_outcome}: {cause}")
        self.limit_s = limit_s
        self.cause = cause


class TooManyQuestionsError(QuestionError):
    """This client waits for as many answers as it may.

    Attributes:
        limit: questions without an outcome that one client may have.
    """

    def __init__(self, camera: str, limit: int) -> None:
        super().__init__(camera, f"{limit} questions of this client have no outcome yet: wait for some")
        self.limit = limit


class EventError(LocalError):
    """Events of a camera cannot be listed, fetched or erased.

    Attributes:
        camera: the camera.
        problem: why, in words.
    """

    def __init__(self, camera: str, problem: str) -> None:
        super().__init__(f"camera {camera}: {problem}")
        self.camera = camera
        self.problem = problem


class SiteConfigError(LocalError):
    """What holds at a site cannot be read or changed on the bus.

    Attributes:
        site: the site.
        problem: why not.
    """

    def __init__(self, site: str, problem: str) -> None:
        super().__init__(f"site {site}: {problem}")
        self.site = site
        self.problem = problem


class InferenceError(LocalError):
    """A question that a model has not answered; the other questions of its batch have results of their own.

    Attributes:
        backend: what was to run the model.
        problem: what is wrong.
        failed: ``model`` or ``engine``, as the reason of the outcome says.
    """

    failed = "model"

    def __init__(self, backend: str, problem: str) -> None:
        super().__init__(f"{backend}: {problem}")
        self.backend = backend
        self.problem = problem


class ModelError(InferenceError):
    """The model failed on this question or its frame, as it would elsewhere."""


class FeatureShapeError(ModelError):
    """Visual features of another shape than the model reads.

    Attributes:
        found: count and dimension of the visual tokens that came, or whatever shape they had.
        wanted: count and dimension that the model reads.
    """

    def __init__(self, backend: str, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
        super().__init__(
            backend,
            f"visual features of shape {list(found)}, the model reads {wanted[0]} tokens of {wanted[1]} values",
        )
        self.found = found
        self.wanted = wanted


class EngineError(InferenceError):
    """What runs the model failed, was out of reach or took too long; the question says nothing about it."""

    failed = "engine"


class StateError(LocalError):
    """A machine or object was used against its contract: a bug on our side."""


class RemoteError(LatentbusError):
    """Their side: the message is dropped and counted, the process goes on.

    Attributes:
        about: what it is about, where each one is worth a line of the log; empty for once a kind.
    """

    about: str = ""


class WireError(RemoteError):
    """Bytes on a topic that are not a valid message there.

    Attributes:
        where: topic family or message kind.
        problem: what is wrong with the bytes.
        reason: short label of low cardinality, for counters and once-per-kind logs.
    """

    reason = "malformed"

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class TopicError(WireError):
    """The topic itself is none of ours, or names what the payload contradicts."""

    reason = "topic"


class SchemaVersionError(WireError):
    """A schema version this process does not speak.

    Attributes:
        version: the version on the wire.
        accepted: versions that this process speaks.
    """

    reason = "version"

    def __init__(self, where: str, version: int, accepted: frozenset[int]) -> None:
        spoken = " and ".join(str(known) for known in sorted(accepted))
        older = "peer" if version < min(accepted) else "process"
        super().__init__(
            where,
            f"wire version {version} of the peer, this process speaks {spoken}: update the older side, the {older}",
        )
        self.version = version
        self.accepted = accepted


class WireSizeError(WireError):
    """Larger than the limit of its kind.

    Attributes:
        size_bytes: size of the payload.
        limit_bytes: the limit.
    """

    reason = "oversize"

    def __init__(self, where: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(where, f"{size_bytes} bytes are over the limit of {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class BitstreamError(RemoteError):
    """A latent chunk that does not decode under the tables.

    Attributes:
        start: first latent of the chunk.
        stop: one past its last latent.
        problem: what is wrong.
    """

    reason = "bitstream"

    def __init__(self, start: int, stop: int, problem: str) -> None:
        super().__init__(f"latents {start}..{stop}: {problem}")
        self.start = start
        self.stop = stop
        self.problem = problem


class FingerprintError(RemoteError):
    """Latents of another model or codec than this pool's; they are never decoded with the wrong one.

    Attributes:
        got: first bytes of the sender's fingerprint.
        expected: the same bytes of ours.
    """

    reason = "fingerprint"

    def __init__(self, got: bytes, expected: bytes) -> None:
        super().__init__(
            f"latents were made for {got.hex()}, this pool decodes {expected.hex()}: "
            "deploy the same codec folder on both sides"
        )
        self.got = got
        self.expected = expected


def _unpickled(kind: type[LatentbusError], args: tuple[object, ...], attributes: dict[str, object]) -> LatentbusError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class CameraNameError(RemoteError):
    """Two sites open frames of one camera name; the later one is refused.

    Attributes:
        camera: the name.
        site: the site that is refused; empty where it is not known.
        other: the site that has the camera; empty where it is not known.
        about: the name of the camera, since each one that is there twice is a mistake of its own.
    """

    reason = "camera"

    def __init__(self, camera: str, site: str, other: str) -> None:
        later, first = (f"site {name!r}" if name else "another site" for name in (site, other))
        super().__init__(
            f"{later} opens frames of camera {camera!r}, which {first} has: "
            "names of cameras are unique in a fleet, rename one of the two"
        )
        self.camera = self.about = camera
        self.site = site
        self.other = other
