"""Pixels to ordered latents, on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.latent import EncodedLatent
from pipeline.codec.spec import (
    ENCODER_FILES,
    PIXELS,
    SYMBOLS,
    TABLES_FILE,
    TOKENS,
    CodecSpec,
    Precision,
    load_codec_spec,
)
from pipeline.codec.tables import MAX_SYMBOL, FrequencyTables
from pipeline.node.work_thread import WorkThread
from schemas.errors import ArtifactError
from schemas.limits import MAX_LATENT_PAYLOAD_BYTES

_MAX_PROBLEM_CHARS: Final = 200
_ERRORS_ONLY: Final = 3
"""Severity from which on ONNX Runtime writes lines of its own between those of the log."""


class OnnxEncoder:
    """Vision tower, connector, analysis and rounding of a codec folder. Blocking; one thread at a time.

    It has encoded a black frame before anybody asks: the first frame of a camera is as fast as the others, and an
    encoder that cannot run is found at the start.

    Args:
        folder: codec folder.
        precision: which of its encoders.
        threads: threads of the runtime.

    Attributes:
        spec: what the folder says about itself.
        tables: of its symbols.
        precision: as given.

    Raises:
        ArtifactError: a file is missing, damaged, or does not belong to the others.
    """

    def __init__(self, folder: Path, *, precision: Precision = "fp32", threads: int = 1) -> None:
        self.spec: CodecSpec = load_codec_spec(folder)
        self.precision: Precision = precision
        self._path = folder / ENCODER_FILES[precision]
        self.tables = FrequencyTables.load(folder / TABLES_FILE)
        if (self.tables.latent_count, self.tables.latent_dim) != (self.spec.latent_count, self.spec.latent_dim):
            raise ArtifactError(
                str(folder / TABLES_FILE),
                f"tables for {self.tables.latent_count} x {self.tables.latent_dim} symbols, codec.json says "
                f"{self.spec.latent_count} x {self.spec.latent_dim}; copy the whole codec folder",
            )
        self._session = self._load(threads)
        self._check_signature()
        size_px = self.spec.image_size_px
        self._run(np.zeros((1, size_px, size_px, 3), np.uint8))

    def encode(self, frames: Sequence[NDArray[np.uint8]]) -> list[EncodedLatent]:
        """Encode frames of any size.

        Args:
            frames: RGB, each uint8 [H, W, 3].

        Raises:
            ArtifactError: the encoder makes what its own codec cannot send.
        """
        if not frames:
            return []
        symbols = self._run(self._fitted(frames))
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

    def tokens(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Visual tokens of frames of any size, without coding them: what the vision tower alone costs.

        Args:
            frames: RGB, each uint8 [H, W, 3].

        Returns:
            float32 [F, N, D].

        Raises:
            ArtifactError: the encoder shows no tokens.
        """
        if len(self._session.get_outputs()) == 1:
            raise ArtifactError(str(self._path), f"it shows no visual tokens; made anew it does: {self._fix()}")
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        made: NDArray[np.float32] = self._outputs(TOKENS, self._fitted(frames), options)
        return made

    def _fitted(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack([fit_frame(frame, self.spec.image_size_px, self.spec.fit) for frame in frames])

    def _outputs(self, name: str, pixels: NDArray[np.uint8], options: onnxruntime.RunOptions | None = None) -> Any:
        try:
            (values,) = self._session.run([name], {PIXELS: pixels}, options)
        except Exception as error:  # the runtime's exceptions share no base class
            raise ArtifactError(str(self._path), f"ONNX Runtime cannot run it: {_first_line(error)}") from error
        return values

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
        symbols = self._outputs(SYMBOLS, pixels)
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
        # An idle camera host must be idle: no spinning, and no arena that keeps the peak of one batch for ever. With a
        # memory pattern the rest is one block a frame instead of hundreds: two thirds of the time, and less memory.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = True
        options.log_severity_level = _ERRORS_ONLY
        if not self._path.is_file():
            raise ArtifactError(str(self._path), f"missing; it is made by: {self._fix()}")
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base class
            raise ArtifactError(str(self._path), f"ONNX Runtime cannot load it: {_first_line(error)}") from error

    def _check_signature(self) -> None:
        size_px, latents, dim = self.spec.image_size_px, self.spec.latent_count, self.spec.latent_dim
        for kind, values, name, dtype, shape, others in (
            ("input", self._session.get_inputs(), PIXELS, "tensor(uint8)", [size_px, size_px, 3], ()),
            ("output", self._session.get_outputs(), SYMBOLS, "tensor(int32)", [latents, dim], (TOKENS,)),
        ):
            try:
                found = [f"{value.name} {value.type} {value.shape}" for value in values]
            except UnicodeDecodeError as error:
                problem = f"{kind} has a name that is no text: the file is damaged; export it again"
                raise ArtifactError(str(self._path), problem) from error
            known = [value.name for value in values] in ([name], [name, *others])
            if not known or values[0].type != dtype or values[0].shape[1:] != shape:
                raise ArtifactError(
                    str(self._path),
                    f"{kind} is {', '.join(found)}, not {name} {dtype} [batch, {shape}]; export it again",
                )

    def _fix(self) -> str:
        command = f"latentbus codec export --codec {self._path.parent}"
        return command if self.precision == "fp32" else f"{command} --int8 (or set edge.precision: fp32)"


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
    async def load(cls, folder: Path, *, precision: Precision = "fp32", threads: int = 1) -> EncoderThread:
        """The encoder of a codec folder, read in its thread: a disk may block.

        Raises:
            ArtifactError: see :class:`OnnxEncoder`.
        """
        thread = WorkThread("encoder")
        try:
            return cls(await thread.call(OnnxEncoder, folder, precision=precision, threads=threads), thread)
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

    @property
    def precision(self) -> Precision:
        """Its arithmetic."""
        return self._encoder.precision

    @property
    def busy_s(self) -> float:
        """How long the frame that is being encoded has taken so far; 0 when there is none."""
        return self._thread.busy_s

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
