"""What a codec folder holds and which model it belongs to.

::

    codec.json           this module's `CodecSpec`: shapes, ladder, hashes of everything below
    codec.safetensors    weights of analysis and synthesis (cloud and training)
    tables.safetensors   integer frequency tables (both sides)
    encoder.onnx         pixels -> symbols (edge)
    encoder.int8.onnx    the same in 8-bit integers (edges with `precision: int8`)
    stop.json            thresholds of the stop rule (cloud)
    README.md            model card
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.codec.model_files import check_model_files
from schemas.errors import ArtifactError
from schemas.limits import MAX_LATENTS
from schemas.problems import problem_text

SPEC_FILE: Final = "codec.json"
WEIGHTS_FILE: Final = "codec.safetensors"
TABLES_FILE: Final = "tables.safetensors"
ENCODER_FILE: Final = "encoder.onnx"
INT8_ENCODER_FILE: Final = "encoder.int8.onnx"
PIXELS: Final = "pixels"
"""Input of an encoder, uint8 [B, H, W, 3]."""
SYMBOLS: Final = "symbols"
"""Its output, int32 [B, K, d]."""
TOKENS: Final = "tokens"
"""A second output, float32 [B, N, D]: the visual tokens that the symbols are made of, for measurements."""
STOP_FILE: Final = "stop.json"
MAX_JSON_FILE_BYTES: Final = 65_536
"""``codec.json`` and ``stop.json`` have about a kilobyte."""
MAX_VLM_ID_CHARS: Final = 200
_MAX_PROBLEM_CHARS: Final = 200

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FitFilter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]
FitMode = Literal["stretch", "crop", "letterbox"]
Precision = Literal["fp32", "int8"]
ENCODER_FILES: Final[dict[Precision, str]] = {"fp32": ENCODER_FILE, "int8": INT8_ENCODER_FILE}
"""Encoders of a codec by their arithmetic. Their symbols mean the same, though some of them differ."""


class FrameFit(BaseModel):
    """How a frame of any size becomes the encoder's input; `pipeline.codec.frame_fit` does it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    mode: FitMode = "stretch"
    """``stretch``: to the square, the aspect ratio given up; nothing is cut off, and no token is spent on a border.
    ``crop``: the middle of the longer sides. ``letterbox``: black borders."""
    filter: FitFilter = "hamming"
    """Antialiasing: as sharp as bicubic at the cost of bilinear, 0.35 ms for 256 px against 0.8 ms with Lanczos."""


class CodecSpec(BaseModel):
    """Shapes and identity of a codec; the content of ``codec.json``."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1] = 1
    """Version of this file's layout and of the bitstream."""
    name: Literal["klt", "meta_autoencoder"]
    version: Annotated[int, Field(ge=1)]
    """Raised with every release of the weights."""
    token_count: Annotated[int, Field(ge=1, le=65_536)]
    """Visual tokens of one image, N."""
    token_dim: Annotated[int, Field(ge=1, le=65_536)]
    """Width of a visual token, D."""
    latent_count: Annotated[int, Field(ge=1, le=MAX_LATENTS)]
    """Latents of one frame, K."""
    latent_dim: Annotated[int, Field(ge=1, le=4_096)]
    """Symbols of one latent, d."""
    image_size_px: Annotated[int, Field(ge=8, le=4_096)]
    """Height and width of the encoder's input."""
    tiles_per_edge: Annotated[int, Field(ge=1, le=16)] = 1
    """1: a frame is one image of the VLM. 2 and more: it is cut into so many tiles along each edge, row by row, and a
    global view behind them, each an image of the VLM."""
    fit: FrameFit = FrameFit()
    """What frames of another size go through. A folder that does not say it was made when there was one way."""
    ladder: Annotated[tuple[int, ...], Field(min_length=1, strict=False)]
    """Prefix lengths at which the stop rule decides, ascending; the last one is the whole latent."""
    base_latents: int
    """Length of the prefix that opens a frame."""
    vlm_id: Annotated[str, Field(min_length=1, max_length=MAX_VLM_ID_CHARS)]
    vlm_sha256: Sha256
    """`hash_vlm` of the model whose visual tokens are coded."""
    codec_sha256: Sha256
    tables_sha256: Sha256
    encoder_sha256: Sha256 | None = None
    """Not part of the fingerprint: an encoder may be quantised for a device without a change to the symbols'
    meaning."""
    encoder_int8_sha256: Sha256 | None = None
    """Of the encoder in 8-bit integers."""

    @model_validator(mode="after")
    def _ladder_fits(self) -> Self:
        rising = all(low < high for low, high in pairwise((0, *self.ladder)))
        if not rising or self.ladder[-1] != self.latent_count:
            raise ValueError(f"ladder {self.ladder} must rise from above 0 to the latent count {self.latent_count}")
        if not 1 <= self.base_latents <= self.latent_count:
            raise ValueError(f"base_latents {self.base_latents} is not in 1..{self.latent_count}")
        return self

    @property
    def tile_px(self) -> int:
        """Height and width of one image of the VLM."""
        return self.image_size_px // self.tiles_per_edge

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that differ whenever symbols of one side would mean something else on the other."""
        # What decides how symbols are read; ladder and base prefix only decide how many of them travel.
        identity = self.model_dump(exclude={"ladder", "base_latents", "encoder_sha256", "encoder_int8_sha256"})
        if self.tiles_per_edge == 1:
            # Codecs from before there were tiles keep their fingerprint.
            del identity["tiles_per_edge"]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()

    @property
    def fingerprint4(self) -> bytes:
        """The 4 bytes that travel on the wire."""
        return self.fingerprint[:4]

    def check_vlm(self, vlm_dir: Path) -> None:
        """Make sure that a VLM folder is the one this codec was made for.

        Raises:
            ArtifactError: it has other weights, or a damaged file.
        """
        found = hash_vlm(vlm_dir)
        if found != self.vlm_sha256:
            check_model_files(vlm_dir)  # a file that is damaged is another one too
            raise ArtifactError(
                str(vlm_dir),
                f"codec {self.name} was made for {self.vlm_id}, weights {self.vlm_sha256[:12]}, not {found[:12]}. "
                "Use that model, or make a codec for this one: latentbus train codec",
            )

    def save(self, folder: Path) -> None:
        """Write ``codec.json``."""
        # A folder without such an encoder reads as it did before there were any.
        left_out = {"encoder_int8_sha256"} if self.encoder_int8_sha256 is None else None
        (folder / SPEC_FILE).write_text(self.model_dump_json(indent=2, exclude=left_out) + "\n")


def load_codec_spec(folder: Path) -> CodecSpec:
    """Read ``codec.json`` and compare the hashes of the files beside it.

    The tables must be there; weights and encoder may be absent on the side that does not use them.

    Raises:
        ArtifactError: a file is missing, damaged, or belongs to another codec.
    """
    path = folder / SPEC_FILE
    try:
        spec = CodecSpec.model_validate_json(read_json_file(path))
    except OSError as error:
        raise ArtifactError(str(path), f"{error.strerror}; a codec folder is made by: latentbus train codec") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "content"
        problem = f"{place}: {problem_text(dict(first))}"[:_MAX_PROBLEM_CHARS]
        raise ArtifactError(str(path), f"{problem}; copy the whole folder again") from error
    expected = {
        WEIGHTS_FILE: spec.codec_sha256,
        TABLES_FILE: spec.tables_sha256,
        ENCODER_FILE: spec.encoder_sha256,
        INT8_ENCODER_FILE: spec.encoder_int8_sha256,
    }
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            if name == TABLES_FILE:
                raise ArtifactError(str(file), "missing; copy the whole codec folder")
        elif digest is not None and hash_file(file) != digest:
            raise ArtifactError(str(file), f"its hash is not the one in {SPEC_FILE}: damaged, or of another codec")
    return spec


def read_json_file(path: Path) -> bytes:
    """Content of a small JSON file.

    Raises:
        ArtifactError: larger than any of its kind.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(MAX_JSON_FILE_BYTES + 1)
    if len(content) > MAX_JSON_FILE_BYTES:
        raise ArtifactError(str(path), f"larger than {MAX_JSON_FILE_BYTES} bytes: not a file of a codec")
    return content


def hash_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(str(path), f"cannot be read: {error.strerror or error}") from None


def hash_vlm(vlm_dir: Path) -> str:
    """Identity of a VLM in `save_pretrained` format: its weights and the configuration that gives them meaning.

    Args:
        vlm_dir: Folder with ``config.json`` and ``*.safetensors``; for a hub id, its local snapshot.

    Raises:
        ArtifactError: there are no such files.
    """
    weights = sorted(vlm_dir.glob("*.safetensors"))
    config = vlm_dir / "config.json"
    if not weights or not config.is_file():
        raise ArtifactError(
            str(vlm_dir), "no config.json with *.safetensors beside it: not a model in save_pretrained format"
        )
    digest = hashlib.sha256()
    for path in weights:
        digest.update(f"{path.name}:{hash_file(path)}\n".encode())
    try:
        settings = dict(json.loads(config.read_bytes()))
    except OSError as error:
        raise ArtifactError(str(config), f"cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, RecursionError):
        raise ArtifactError(str(config), "not a JSON object: save the model again with save_pretrained") from None
    # The version of the library that saved the file does not change the model.
    settings.pop("transformers_version", None)
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()
