"""Pixels to ordered latents, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import ENCODER_FILE, TABLES_FILE, CodecSpec, load_codec_spec
from pipeline.codec.tables import MAX_SYMBOL, FrequencyTables
from pipeline.node.work_thread import WorkThread
from schemas.errors import ArtifactError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES

_MAX_PROBLEM_CHARS = 200


class OnnxEncoder:
    """Vision tower, connector, analysis and rounding of a codec folder. Blocking; one thread at a time.

    Args:
        folder: codec folder.
        threads: threads of the runtime.

    Attributes:
        spec: what the folder says about itself.
        tables: of its symbols.

    Raises:
        ArtifactError: a file is missing, damaged, or does not belong to the others.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.spec: CodecSpec = load_codec_spec(folder)
        self._path = folder / ENCODER_FILE
        self.tables = FrequencyTables.load(folder / TABLES_FILE)
        if (self.tables.latent_count, self.tables.latent_dim) != (self.spec.latent_count, self.spec.latent_dim):
            raise ArtifactError(
                str(folder / TABLES_FILE),
                f"tables for {self.tables.latent_count} x {self.tables.latent_dim} symbols, codec.json says "
                f"{self.spec.latent_count} x {self.spec.latent_dim}; copy the whole codec folder",
            )
        self._session = self._load(threads)
        self._check_signature()

    def encode(self, frames: Sequence[NDArray[np.uint8]]) -> list[EncodedLatent]:
        """Encode frames of any size.

        Args:
            frames: RGB, each uint8 [H, W, 3].

        Raises:
            ArtifactError: the encoder makes what its own codec cannot send.
        """
        if not frames:
            return []
        pixels = np.stack([fit_frame(frame, self.spec.image_size_px, self.spec.fit) for frame in frames])
        symbols = self._run(pixels)
        latents = [EncodedLatent(frame_symbols, self.tables) for frame_symbols in symbols]
        for latent in latents:
            size_bytes = latent.size_bytes(latent.latent_count)
            if size_bytes > MAX_LATENT_PAYLOAD_BYTES:
                raise ArtifactError(
                    str(self._path),
                    f"a latent of {size_bytes} bytes is over the wire's limit of {MAX_LATENT_PAYLOAD_BYTES}; "
                    "train the codec at a higher rate weight: latentbus train codec",
                )
        return latents

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        try:
            (symbols,) = self._session.run(["symbols"], {"pixels": pixels})
        except Exception as error:  # the runtime's exceptions share no base class
            raise ArtifactError(str(self._path), f"ONNX Runtime cannot run it: {_first_line(error)}") from error
        expected = (len(pixels), self.spec.latent_count, self.spec.latent_dim)
        if symbols.shape != expected or symbols.min() < -MAX_SYMBOL or symbols.max() > MAX_SYMBOL:
            raise ArtifactError(
                str(self._path), f"it makes other values than {list(expected)} symbols: damaged; export it again"
            )
        made: NDArray[np.int32] = symbols
        return made

    def _load(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # An idle camera host must be idle: no spinning, and no arena that keeps the peak of one batch for ever.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        if not self._path.is_file():
            fix = f"latentbus codec export --codec {self._path.parent}"
            raise ArtifactError(str(self._path), f"missing; it is made by: {fix}")
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base class
            raise ArtifactError(str(self._path), f"ONNX Runtime cannot load it: {_first_line(error)}") from error

    def _check_signature(self) -> None:
        size_px, latents, dim = self.spec.image_size_px, self.spec.latent_count, self.spec.latent_dim
        for kind, values, name, dtype, shape in (
            ("input", self._session.get_inputs(), "pixels", "tensor(uint8)", [size_px, size_px, 3]),
            ("output", self._session.get_outputs(), "symbols", "tensor(int32)", [latents, dim]),
        ):
            try:
                found = [f"{value.name} {value.type} {value.shape}" for value in values]
            except UnicodeDecodeError as error:
                problem = f"{kind} has a name that is no text: the file is damaged; export it again"
                raise ArtifactError(str(self._path), problem) from error
            if len(values) != 1 or values[0].name != name or values[0].type != dtype or values[0].shape[1:] != shape:
                raise ArtifactError(
                    str(self._path),
                    f"{kind} is {', '.join(found)}, not {name} {dtype} [batch, {shape}]; export it again",
                )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_PROBLEM_CHARS]


class EncoderThread:
    """An encoder in a thread of its own, so that the event loop never waits for it.

    Frames are encoded one by one: on a processor a batch is no faster, and the first of it would wait for the last.

    Args:
        encoder: the encoder.
        thread: where it runs.
    """

    def __init__(self, encoder: OnnxEncoder, thread: WorkThread | None = None) -> None:
        self._encoder = encoder
        self._thread = thread or WorkThread("encoder")

    @classmethod
    async def load(cls, folder: Path, *, threads: int = 1) -> EncoderThread:
        """The encoder of a codec folder, read in its thread: a disk may block.

        Raises:
            ArtifactError: see :class:`OnnxEncoder`.
        """
        thread = WorkThread("encoder")
        try:
            return cls(await thread.call(OnnxEncoder, folder, threads=threads), thread)
        except BaseException:
            thread.end()
            raise

    @property
    def tables(self) -> FrequencyTables:
        """Of the codec's symbols."""
        return self._encoder.tables

    @property
    def spec(self) -> CodecSpec:
        """What the codec folder says about itself."""
        return self._encoder.spec

    async def encode(self, frame: NDArray[np.uint8]) -> EncodedLatent:
        """Encode one frame, after those before it.

        Args:
            frame: RGB, uint8 [H, W, 3].
        """
        (latent,) = await self._thread.call(self._encoder.encode, [frame])
        return latent

    async def close(self) -> None:
        """End the thread after what runs in it."""
        await self._thread.close()
