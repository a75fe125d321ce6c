"""A codec on a standard set: the set's own score at every rung, beside agreement and semantic consistency."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codec.frame_fit import fit_frame
from pipeline.codec.spec import CodecSpec
from schemas.counting import counted
from schemas.errors import ConfigError
from training.codec.answers import answers_in_parts
from training.codec.calibrate.source import PictureSource, open_pictures
from training.codec.calibrate.tokens import batch_frames
from training.codec.data import Asked
from training.codec.evaluate.models import OpenedCodecs, open_codecs
from training.codec.measure import measure_prefixes
from training.codec.standard_sets.readers import SetName, SetQuestion, image_key, read_set
from training.codec.standard_sets.scoring import score
from training.codec.standard_sets.semantic import SentenceEncoder
from training.run import RunSettings

_LINE_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class StandardSet:
    """A set to evaluate on.

    Attributes:
        name: Which form its files have.
        questions: File with the questions.
        images: Folder or zip with the images.
        annotations: VQAv2's second file.
        limit: Most images, evenly spread over the set; None for all.
        sentences: Folder of a sentence encoder; None leaves semantic consistency out.
    """

    name: SetName
    questions: Path
    images: Path
    annotations: Path | None = None
    limit: int | None = None
    sentences: Path | None = None


def evaluate_set(vlm_dir: Path, codec_dir: Path, run: RunSettings, wanted: StandardSet) -> dict[str, Any]:
    """Ask a set's questions from uncompressed tokens and from every rung of a codec.

    Args:
        vlm_dir: The model that the codec was made for.
        codec_dir: Codec folder.
        run: Cache, threads, the device of the model, progress.
        wanted: The set.

    Returns:
        JSON-ready: the set's score of the uncompressed tokens, of an empty prefix and of each rung, with bytes,
        agreement with the uncompressed tokens' answers and, with a sentence encoder, semantic consistency with them.

    Raises:
        ConfigError: a question has no image, or files do not fit the set.
        ArtifactError: a file, the codec, the model or the sentence encoder is not usable.
    """
    torch.set_num_threads(run.threads)
    questions = read_set(wanted.name, wanted.questions, wanted.annotations)
    source = open_pictures(wanted.images)
    sentences = None if wanted.sentences is None else SentenceEncoder(wanted.sentences)
    opened = open_codecs(vlm_dir, [codec_dir])
    opened.vlm.model.to(run.device)
    opened.frozen.image_path.to(run.device)
    spec = opened.specs[0]
    chosen, names = _with_images(questions, source, wanted)
    run.progress(f"{wanted.name}: {counted(len(chosen), 'question')} about {counted(len(names), 'image')}")
    place = {image_key(name): row for row, name in enumerate(names)}
    chosen.sort(key=lambda question: place[image_key(question.image)])
    asked = [
        Asked(place[image_key(question.image)], question.text, question.answer_type, question.answer_type, None, "own")
        for question in chosen
    ]
    tokens = _tokens(source, names, opened, spec, run)
    reference = answers_in_parts(opened.vlm, tokens, asked).texts
    answers = measure_prefixes(opened.vlm, codec_dir, tokens, asked, spec.ladder, run.progress, cache_dir=run.cache_dir)

    def row(texts: NDArray[np.str_], sizes: NDArray[np.int64] | None) -> dict[str, Any]:
        found: dict[str, Any] = {} if sizes is None else {"payload_bytes": round(float(sizes.mean()), 1)}
        found |= score(wanted.name, chosen, texts)
        found["agreement"] = round(float((texts == reference).mean()), 4)
        if sentences is not None:
            found["semantic_consistency"] = round(sentences.consistency(texts.tolist(), reference.tolist()), 4)
        return found

    return {
        "set": wanted.name,
        "images": len(names),
        "questions": len(chosen),
        "codec": {"name": spec.name, "fingerprint": spec.fingerprint4.hex(), "vlm_id": spec.vlm_id},
        "sentences": None if wanted.sentences is None else wanted.sentences.name,
        "uncompressed": row(reference, None),
        "empty_prefix": row(answers.blind.texts, None),
        "rungs": [
            {"latents": length, **row(texts, sizes)}
            for length, texts, sizes in zip(answers.lengths, answers.texts, answers.payload_bytes, strict=True)
        ],
    }


def _with_images(
    questions: Sequence[SetQuestion], source: PictureSource, wanted: StandardSet
) -> tuple[list[SetQuestion], list[str]]:
    """Questions about the images that are asked about, and these images' names."""
    if source.video:
        raise ConfigError("--images", f"{source.path} is a video; a set has a folder or a zip of images")
    by_key = {image_key(name): name for name in source.names}
    keys = list(dict.fromkeys(image_key(question.image) for question in questions))
    if missing := [key for key in keys if key not in by_key]:
        raise ConfigError(
            "--images",
            f"{source.path} lacks {len(missing)} of {len(keys)} images of {wanted.questions.name}, for example that of "
            f"{missing[0]}",
        )
    if wanted.limit is not None and wanted.limit < len(keys):
        keys = [keys[index] for index in (np.arange(wanted.limit) * len(keys) // wanted.limit).tolist()]
    kept = set(keys)
    return [item for item in questions if image_key(item.image) in kept], [by_key[key] for key in keys]


def _tokens(
    source: PictureSource, names: Sequence[str], opened: OpenedCodecs, spec: CodecSpec, run: RunSettings
) -> Tensor:
    """Uncompressed visual tokens of the images, float16 [F, N, D], computed once and mapped from a file."""
    identity = f"{spec.vlm_sha256}{spec.image_size_px}{spec.fit.model_dump_json()}{source.sha256}{list(names)}"
    path = run.cache_dir / f"set-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        shape = (len(names), spec.token_count, spec.token_dim)
        kept = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
        batch: list[NDArray[np.uint8]] = []
        done = 0
        for number, picture in enumerate(source.read(iter(names)), start=1):
            if picture.pixels is None:
                raise ConfigError("--images", f"{picture.name}: {picture.problem}")
            batch.append(fit_frame(picture.pixels, spec.image_size_px, spec.fit))
            if len(batch) == batch_frames(spec.image_size_px) or number == len(names):
                kept[done : done + len(batch)] = opened.frozen.image_path.of_frames(np.stack(batch)).half().numpy()
                done += len(batch)
                batch.clear()
            if number % _LINE_EVERY == 0:
                run.progress(f"visual tokens: {number} of {len(names)} images")
        kept.flush()
        partial.replace(path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))
