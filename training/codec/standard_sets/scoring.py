"""How the field scores its sets: POPE by accuracy and F1 of "yes", VQAv2 by agreement with ten people, GQA by equality.

Answers of VQAv2 are normalised as in the authors' evaluation: case, punctuation, articles, numbers in words and
contractions without apostrophe (Antol et al., ICCV 2015; Goyal et al., CVPR 2017).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.codec.standard_sets.readers import SetName, SetQuestion

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBERS: Final = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
    "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_BREAKS: Final = {
    "aint": "ain't", "arent": "aren't", "cant": "can't", "couldve": "could've", "couldnt": "couldn't",
    "didnt": "didn't", "doesnt": "doesn't", "dont": "don't", "hadnt": "hadn't", "hasnt": "hasn't",
    "havent": "haven't", "hed": "he'd", "hes": "he's", "howd": "how'd", "howll": "how'll", "hows": "how's",
    "isnt": "isn't", "itd": "it'd", "itll": "it'll", "lets": "let's", "maam": "ma'am",
    "mightnt": "mightn't", "mightve": "might've", "mustnt": "mustn't", "mustve": "must've", "neednt": "needn't",
    "oclock": "o'clock", "oughtnt": "oughtn't", "shant": "shan't", "shouldve": "should've", "shouldnt": "shouldn't",
    "somebodys": "somebody's", "someones": "someone's", "thats": "that's", "thered": "there'd",
    "therere": "there're", "theres": "there's", "theyd": "they'd", "theyre": "they're", "theyve": "they've",
    "wasnt": "wasn't", "weve": "we've", "werent": "weren't", "whatll": "what'll", "whatre": "what're",
    "whats": "what's", "whatve": "what've", "whens": "when's", "whered": "where'd", "wheres": "where's",
    "whereve": "where've", "whod": "who'd", "wholl": "who'll", "whos": "who's", "whove": "who've", "whyll": "why'll",
    "whyre": "why're", "whys": "why's", "wont": "won't", "wouldve": "would've", "wouldnt": "wouldn't",
    "yall": "y'all", "youd": "you'd", "youll": "you'll", "youre": "you're", "youve": "you've",
}  # fmt: skip
_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER: Final = re.compile(r"(\d)(,)(\d)")
_PERIOD: Final = re.compile(r"\.(?!\d)")
_PEOPLE: Final = 3
"""As many who gave an answer make it fully right."""


def normalised(answer: str) -> str:
    """An answer as VQAv2 compares it."""
    given = _plain(answer)
    text = given
    in_number = _COMMA_IN_NUMBER.search(given) is not None
    for mark in _PUNCTUATION:
        dropped = f"{mark} " in given or f" {mark}" in given or in_number
        text = text.replace(mark, "" if dropped else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", text).lower().split()]
    return " ".join(_BREAKS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Mean over every group of all people but one: the share of three who gave this answer, at most 1.

    Where all people agree nothing is normalised, as in the authors' evaluation.

    Args:
        answer: Of the model.
        people: What they answered, usually ten.
    """
    given = [_plain(text) for text in people]
    said = _plain(answer)
    if len(set(given)) > 1:
        given, said = [normalised(text) for text in given], normalised(said)
    same = [text == said for text in given]
    if len(same) == 1:
        return float(same[0])
    return float(np.mean([min((sum(same) - mine) / _PEOPLE, 1.0) for mine in same]))


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def says_yes(answer: str) -> bool:
    """What POPE takes an answer for: no if its first sentence has the word "no" or "not", else yes."""
    words = answer.split(".", 1)[0].replace(",", "").lower().split()
    return not ({"no", "not"} & set(words))


def score(name: SetName, questions: Sequence[SetQuestion], texts: NDArray[np.str_] | Sequence[str]) -> dict[str, float]:
    """Scores of a set, as it is published.

    Args:
        name: Of the set.
        questions: Its questions.
        texts: The model's answers, in the same order.

    Returns:
        `score`, the set's main figure in percent, and what is published beside it: of POPE `accuracy`, `precision`,
        `recall`, `f1` (the main one) and `yes_percent`.
    """
    return _SCORES[name](questions, [str(text) for text in texts])


def _pope(questions: Sequence[SetQuestion], texts: Sequence[str]) -> dict[str, float]:
    said = np.array([says_yes(text) for text in texts])
    true = np.array([question.answers[0] == "yes" for question in questions])
    hits = float((said & true).sum())
    precision = hits / max(float(said.sum()), 1.0)
    recall = hits / max(float(true.sum()), 1.0)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {
        "score": _percent(f1),
        "f1": _percent(f1),
        "accuracy": _percent(float((said == true).mean())),
        "precision": _percent(precision),
        "recall": _percent(recall),
        "yes_percent": _percent(float(said.mean())),
    }


def _vqav2(questions: Sequence[SetQuestion], texts: Sequence[str]) -> dict[str, float]:
    return {
        "score": _percent(float(np.mean([vqa_accuracy(t, q.answers) for q, t in zip(questions, texts, strict=True)])))
    }


def _gqa(questions: Sequence[SetQuestion], texts: Sequence[str]) -> dict[str, float]:
    same = [
        text.strip().rstrip(".").lower() == question.answers[0].strip().lower()
        for question, text in zip(questions, texts, strict=True)
    ]
    return {"score": _percent(float(np.mean(same)))}


def _percent(share: float) -> float:
    return round(100 * share, 2)


_SCORES: Final[dict[SetName, Callable[[Sequence[SetQuestion], Sequence[str]], dict[str, float]]]] = {
    "pope": _pope,
    "vqav2": _vqav2,
    "gqa": _gqa,
}
