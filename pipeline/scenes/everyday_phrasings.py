"""Many wordings of each kind of question, for models that must read sentences that they have never met.

The wordings of :mod:`pipeline.scenes.phrasings` stay the ones that fleets use; these are added to them. Held-out
wordings are whole sentences that no training uses, made of words that training knows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from pipeline.scenes.catalogue import QuestionKind
from pipeline.scenes.phrasings import HELD_OUT_PHRASINGS, PHRASINGS, with_color, write
from pipeline.scenes.questions import QuestionSpec

MORE_PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": (
        "Is {a_thing} visible?",
        "Is {a_thing} in the picture?",
        "Is there any {thing} in view?",
        "Does the camera see {a_thing}?",
        "Can the camera see any {things}?",
        "Are {things} present?",
        "Do any {things} appear here?",
        "Does this scene have {a_thing}?",
        "Would you say there is {a_thing} here?",
        "Tell me if there is {a_thing}.",
        "Check whether {a_thing} is present.",
        "Is it true that there is {a_thing}?",
        "Is at least one {thing} here?",
        "Can you find {a_thing}?",
        "Have you found any {things}?",
        "Does the picture contain any {things}?",
        "{a_thing}, yes or no?",
        "Any {thing} there?",
        "I am looking for {a_thing}. Is there one?",
        "Does the frame show any {thing}?",
    ),
    "color": (
        "What is the {thing}'s color?",
        "Name the {thing}'s color.",
        "The {thing} has which color?",
        "Which colour do you see on the {thing}?",
        "Of what color is the {thing}?",
        "Of which color would you say the {thing} is?",
        "Please give the color of the {thing}.",
        "Say the color of the {thing}.",
        "What colour does the {thing} have?",
        "The color of the {thing} is?",
        "Can you tell me the color of the {thing}?",
        "Do you know the color of the {thing}?",
        "What color would you call the {thing}?",
        "In the image, what color is the {thing}?",
        "There is {a_thing}. What color is it?",
        "Look at the {thing}: which color is it?",
        "Which color is the {thing} in the picture?",
        "What is the colour of the {thing} here?",
        "How is the {thing} colored?",
        "Find the {thing} and name its color.",
    ),
    "count": (
        "Number of {things}?",
        "What number of {things} is there?",
        "How many {things} does the camera see?",
        "How many {things} are visible?",
        "How many {things} are present?",
        "How many {things} can be seen?",
        "Please count the {things}.",
        "Count all {things} in the picture.",
        "Count the {things} that you see.",
        "Give the number of {things}.",
        "Name the number of {things} in the image.",
        "Say how many {things} you see.",
        "Can you count the {things}?",
        "Can you tell me how many {things} there are?",
        "In the image, how many {things} are there?",
        "How many {things} would you say there are?",
        "How many {things} appear here?",
        "What is the count of {things}?",
        "The number of {things} is?",
        "Find all {things}. How many are there?",
    ),
    "position": (
        "What is the position of the {thing}?",
        "What is the place of the {thing}?",
        "Where is the {thing} in the picture?",
        "Name the position of the {thing}.",
        "Give the place of the {thing}.",
        "Say where the {thing} is.",
        "In what part of the picture is the {thing}?",
        "Which part of the frame has the {thing}?",
        "In which place do you see the {thing}?",
        "Can you tell me where the {thing} is?",
        "Do you know where the {thing} is?",
        "Find the {thing}. Where is it?",
        "Where would you say the {thing} is?",
        "Where does the {thing} stand?",
        "Where does the {thing} appear in the image?",
        "At which position is the {thing}?",
        "In the image, where is the {thing}?",
        "The {thing} is where?",
        "Look for the {thing} and name its place.",
        "There is {a_thing}. In which part of the image?",
    ),
    "relation": (
        "Is the {thing} seen {relation} the {other}?",
        "Does the {thing} stand {relation} the {other}?",
        "Does the {thing} appear {relation} the {other}?",
        "Is the position of the {thing} {relation} the {other}?",
        "Would you find the {thing} {relation} the {other}?",
        "Tell me if the {thing} is {relation} the {other}.",
        "Check whether the {thing} is {relation} the {other}.",
        "The {thing} is {relation} the {other}, yes or no?",
        "The {thing} is {relation} the {other}, is that true?",
        "Can you tell me whether the {thing} is {relation} the {other}?",
        "Is the {thing} in the picture {relation} the {other}?",
        "Is the place of the {thing} {relation} that of the {other}?",
        "Have you found the {thing} {relation} the {other}?",
        "Do you find the {thing} {relation} the {other}?",
        "Look at the {thing}: is it {relation} the {other}?",
        "Does the camera see the {thing} {relation} the {other}?",
        "Is it right that the {thing} is {relation} the {other}?",
        "Please say if the {thing} is {relation} the {other}.",
    ),
    "activity": (
        "Is the {thing} on the move?",
        "Can you see if the {thing} moves?",
        "Tell me if the {thing} is moving.",
        "Check whether the {thing} is moving.",
        "Is it true that the {thing} is moving?",
        "The {thing} is moving, yes or no?",
        "Would you say that the {thing} moves?",
        "Look at the {thing}: is it moving?",
        "Does the camera see the {thing} moving?",
        "Can you tell me whether the {thing} moves?",
        "Does the {thing} appear to move?",
        "Please say if the {thing} is in motion.",
        "In the image, is the {thing} moving?",
        "Is the {thing} seen moving?",
    ),
}
"""Beside `PHRASINGS`: what the third reference VLM is trained with."""

MORE_HELD_OUT_PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": (
        "Are there {things} in the picture?",
        "Can you see whether there is {a_thing}?",
        "Does the camera show {a_thing}?",
        "Please check if any {thing} is visible.",
    ),
    "color": (
        "What color do you see on the {thing}?",
        "Please name the colour of the {thing}.",
        "The {thing} in the picture is which color?",
        "Tell me which color the {thing} has.",
    ),
    "count": (
        "Please tell me the number of {things}.",
        "How many {things} do you find?",
        "Look for {things}. How many do you see?",
        "The picture shows how many {things}?",
    ),
    "position": (
        "Please tell me in which part the {thing} is.",
        "Where do you find the {thing}?",
        "Which place does the {thing} have in the image?",
        "Look for the {thing}. Where is it?",
    ),
    "relation": (
        "Would you see the {thing} {relation} the {other}?",
        "Can you see whether the {thing} is {relation} the {other}?",
        "In the picture, does the {thing} appear {relation} the {other}?",
        "Please check if the {thing} is {relation} the {other}.",
    ),
    "activity": (
        "Please tell me if the {thing} moves.",
        "In the picture, is the {thing} in motion?",
        "Do you find that the {thing} is moving?",
        "Can you check whether the {thing} is on the move?",
    ),
}

TRAINED_PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    kind: (*texts, *MORE_PHRASINGS[kind]) for kind, texts in PHRASINGS.items()
}
UNSEEN_PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    kind: (*texts, *MORE_HELD_OUT_PHRASINGS[kind]) for kind, texts in HELD_OUT_PHRASINGS.items()
}
"""The held-out wordings of the bundled model too, so that both are measured with the same ones."""


def reworded(question: QuestionSpec, rng: np.random.Generator, *, held_out: bool = False) -> QuestionSpec:
    """The same question about a rendered object in another wording.

    Args:
        question: Of any kind.
        rng: Chooses the wording.
        held_out: Choose among those that no training uses; otherwise among those that training uses.
    """
    choices = (UNSEEN_PHRASINGS if held_out else TRAINED_PHRASINGS)[question.kind]
    template = choices[int(rng.integers(len(choices)))]
    other = with_color(question.other_kind, question.other_color) if question.other_kind else ""
    text = write(template, question.object_kind, question.color, other, question.relation or "")
    return replace(question, text=text[0].upper() + text[1:], held_out=held_out)
