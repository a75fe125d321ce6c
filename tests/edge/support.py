"""What the edge tests share: a turned clock, a small real codec, videos, and a scripted worker."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pipeline.bus.base import BusStatistics, ConnectionChange, Inbound, PublishResult, Qos, Subscription, Traffic
from pipeline.bus.mqtt import MqttBus
from pipeline.codec.prediction import CONTEXTS
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, CodecSpec, hash_file
from pipeline.codec.tables import FrequencyTables
from pipeline.config.broker_settings import BrokerSettings
from schemas import topics, wire
from schemas.identity import owner_of
from schemas.messages import Accept, Answer, BinaryMessage, Chunk, FollowUp, Open, Refine, Revoke, Text
from schemas.types import FrameId, Outcome

IMAGE_PX, LATENTS, LATENT_DIM = 32, 8, 4


class SkippingClock:
    """Time passes exactly when somebody sleeps."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.time_s = now_s

    def now_s(self) -> float:
        return self.time_s

    async def sleep(self, delay_s: float) -> None:
        self.time_s += max(0.0, delay_s)
        await asyncio.sleep(0)


def write_codec(
    folder: Path,
    *,
    batch_output: str = "symbols",
    image_px: int = IMAGE_PX,
    prediction: bool = False,
    tokens: bool = False,
    step: float = 8,
) -> Path:
    """A codec folder whose encoder averages stripes of the image: small, real, and different for different frames."""
    folder.mkdir(parents=True, exist_ok=True)
    count = LATENTS * LATENT_DIM
    stripe = image_px * image_px * 3 // count
    nodes = [
        helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["real", "stripes"], ["striped"]),
        helper.make_node("ReduceMean", ["striped", "last"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["mean", "middle"], ["centred"]),
        helper.make_node("Div", ["centred", "step"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["rounded"]),
        helper.make_node("Cast", ["rounded"], ["integers"], to=TensorProto.INT32),
        helper.make_node("Reshape", ["integers", "latents"], [batch_output]),
        *([helper.make_node("Reshape", ["mean", "token_shape"], ["tokens"])] if tokens else []),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "stripes": np.array([-1, count, stripe], np.int64),
        "last": np.array([2], np.int64),
        "middle": np.array(128, np.float32),
        "step": np.array(step, np.float32),
        "latents": np.array([-1, LATENTS, LATENT_DIM], np.int64),
        **({"token_shape": np.array([-1, 4, 8], np.int64)} if tokens else {}),
    }
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", image_px, image_px, 3])],
        [
            helper.make_tensor_value_info(batch_output, TensorProto.INT32, ["batch", LATENTS, LATENT_DIM]),
            *([helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", 4, 8])] if tokens else []),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / ENCODER_FILE)
    rng = np.random.default_rng(0)
    fitted = FrequencyTables.fit(rng.integers(-8, 9, (64, LATENTS, LATENT_DIM)).astype(np.int32), 12)
    # Half of the symbols stay as they were, or all of them.
    weights = np.zeros((2, 2, CONTEXTS), dtype=np.uint16)
    weights[0] = [[24_000], [8_000]]
    FrequencyTables(fitted.frequencies, weights if prediction else None).save(folder / TABLES_FILE)
    CodecSpec(
        name="klt",
        version=1,
        token_count=4,
        token_dim=8,
        latent_count=LATENTS,
        latent_dim=LATENT_DIM,
        image_size_px=IMAGE_PX,
        ladder=(4, LATENTS),
        base_latents=4,
        vlm_id="none",
        vlm_sha256=hashlib.sha256(b"no model").hexdigest(),
        codec_sha256=hashlib.sha256(b"no weights").hexdigest(),
        tables_sha256=hash_file(folder / TABLES_FILE),
        encoder_sha256=hash_file(folder / ENCODER_FILE),
    ).save(folder)
    return folder


def grey(level: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    fps: int = 10,
    first_pts: int = 0,
    codec: str = "mpeg4",
) -> Path:
    """Frames as a file of the format that its name says, time stamps from ``first_pts`` on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        stream.height, stream.width = frames[0].shape[:2]
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = first_pts + number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def raw_video(frames: Sequence[NDArray[np.uint8]], *, fps: int = 25) -> bytes:
    """Frames as a raw H.264 stream: no time stamps, nothing to seek by."""
    out = io.BytesIO()
    with av.open(out, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=fps, options={"tune": "zerolatency"})
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


class ScriptedWorker:
    """A worker that does what the test says, over a real broker."""

    def __init__(self, settings: BrokerSettings, name: str = "w-1", *, pool: str = "main") -> None:
        self.name = name
        self._bus = MqttBus(
            settings,
            client_id=f"worker-{name}",
            subscriptions=[
                Subscription(topics.share_filter(pool), qos=1),
                Subscription(topics.inbox_filter(name)),
            ],
        )
        self._waiting: list[tuple[str, BinaryMessage]] = []

    async def __aenter__(self) -> Self:
        await self._bus.__aenter__()
        await self._bus.wait_connected(10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._bus.__aexit__(kind, error, traceback)

    async def _next(self) -> tuple[str, BinaryMessage]:
        while not self._waiting:
            for event in await self._bus.receive_batch():
                if isinstance(event, Inbound):
                    self._bus.acknowledge(event)
                    topic = topics.parse(event.topic)
                    message = wire.decode(topic.family, event.payload)
                    assert isinstance(message, BinaryMessage)
                    self._waiting.append((topic.name("camera"), message))
        return self._waiting.pop(0)

    async def next_open(self) -> tuple[str, Open]:
        while True:
            camera, message = await self._next()
            if isinstance(message, Open):
                return camera, message

    async def next_in_inbox(self) -> Chunk | Revoke | Text:
        while True:
            _, message = await self._next()
            if isinstance(message, Chunk | Revoke | Text):
                return message

    async def next_follow_up(self) -> FollowUp:
        while True:
            _, message = await self._next()
            if isinstance(message, FollowUp):
                return message

    async def control(self, camera: str, message: BinaryMessage) -> None:
        await self._bus.publish(topics.control_topic(camera), wire.encode(message))

    async def accept(self, camera: str, opened: Open, lease_ms: int = 5_000) -> None:
        await self.control(
            camera, Accept(worker=self.name, frame=opened.frame, attempt=opened.attempt, lease_ms=lease_ms)
        )

    async def refine(self, camera: str, opened: Open, start: int, stop: int) -> None:
        await self.control(
            camera,
            Refine(
                worker=self.name,
                frame=opened.frame,
                attempt=opened.attempt,
                start=start,
                stop=stop,
                lease_ms=5_000,
            ),
        )

    async def answer_all(self, camera: str, opened: Open, text: str = "yes") -> None:
        for ref, query_id in zip(opened.queries, opened.query_ids(camera), strict=True):
            owner = owner_of("site", opened.site) if ref.client is None else owner_of("client", ref.client)
            await self.answer(camera, opened.frame, opened.attempt, query_id, owner, ref.question_id, text)

    async def answer(
        self, camera: str, frame: FrameId, attempt: int, query_id: str, owner: str, question_id: str, text: str
    ) -> None:
        message = Answer(
            query_id=query_id,
            owner=owner,
            camera=camera,
            frame=frame,
            attempt=attempt,
            question_id=question_id,
            worker=self.name,
            outcome=Outcome.ANSWERED,
            text=text,
            score=1.0,
            latents=4,
            payload_bytes=20,
            looks=1,
        )
        await self._bus.publish(topics.answer_topic(camera), wire.encode(message), qos=1)


class RecordingBus:
    """A :class:`~pipeline.bus.base.Bus` for publishing that remembers, and fails when it is told to."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, int]] = []
        self.acknowledged: list[Inbound] = []
        self.failures: list[Exception] = []
        self.no_subscribers = False

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 0,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        expiry_s: int | None = None,
        content_type: str | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
    ) -> PublishResult:
        if self.failures:
            raise self.failures.pop(0)
        self.published.append((topic, payload, qos))
        return PublishResult(self.no_subscribers)

    def acknowledge(self, inbound: Inbound) -> bool:
        self.acknowledged.append(inbound)
        return True

    async def wait_connected(self, timeout_s: float) -> None:
        raise NotImplementedError

    async def receive_batch(self, max_count: int = 256) -> list[Inbound | ConnectionChange]:
        raise NotImplementedError

    async def subscribe(self, subscription: Subscription, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    async def unsubscribe(self, topic_filter: str, timeout_s: float = 10.0) -> None:
        raise NotImplementedError

    @property
    def traffic(self) -> Traffic:
        return Traffic()

    def statistics(self) -> BusStatistics:
        raise NotImplementedError


def inbound(
    topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, response_topic: str | None = None
) -> Inbound:
    return Inbound(topic, payload, qos, retain, response_topic, None, generation=1, packet_id=1, received_s=0.0)


class TurnedClock:
    """Time passes when the test turns it; whoever sleeps wakes at the right moment, in order."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.time_s = now_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._number = 0
        self._asleep = asyncio.Event()

    def now_s(self) -> float:
        return self.time_s

    async def waited_for(self) -> None:
        """Wait until somebody sleeps."""
        while not self._sleepers:
            self._asleep.clear()
            await self._asleep.wait()

    async def sleep(self, delay_s: float) -> None:
        self._number += 1
        self._asleep.set()
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time_s + max(0.0, delay_s), self._number, wake))
        await wake

    async def turn_to(self, time_s: float) -> None:
        """Let time pass; what a waking task does takes none."""
        await settle()
        while self._sleepers and self._sleepers[0][0] <= time_s:
            due_s, _, wake = heapq.heappop(self._sleepers)
            self.time_s = max(self.time_s, due_s)
            if not wake.done():
                wake.set_result(None)
                await settle()
        self.time_s = max(self.time_s, time_s)


async def settle() -> None:
    """Let every task run until it waits for time or for a message."""
    for _ in range(12):
        await asyncio.sleep(0)
