"""How questions are worded.

A fifth of the wordings of each kind is kept out of training, to see what the model makes of a sentence that it has
never read.
"""

from __future__ import annotations

from typing import Final

from pipeline.scenes.catalogue import KINDS, QuestionKind

PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": (
        "Is there {a_thing}?",
        "Is there {a_thing} in the image?",
        "Do you see {a_thing}?",
        "Can you see {a_thing}?",
        "Are there any {things}?",
        "Does the image show {a_thing}?",
        "Is {a_thing} there?",
        "Do you see any {things} in the image?",
    ),
    "color": (
        "What color is the {thing}?",
        "Which color is the {thing}?",
        "What colour is the {thing}?",
        "What is the color of the {thing}?",
        "Which color does the {thing} have?",
        "Tell me the color of the {thing}.",
        "What color does the {thing} have?",
        "In which color is the {thing}?",
    ),
    "count": (
        "How many {things} are there?",
        "How many {things} do you see?",
        "How many {things} are in the image?",
        "Count the {things}.",
        "What is the number of {things}?",
        "How many {things} can you see?",
        "Tell me how many {things} there are.",
        "How many {things} does the image show?",
    ),
    "position": (
        "Where is the {thing}?",
        "Where in the image is the {thing}?",
        "In which part of the image is the {thing}?",
        "Where do you see the {thing}?",
        "Where can you see the {thing}?",
        "In which part is the {thing}?",
        "Tell me where the {thing} is.",
        "Which part of the image shows the {thing}?",
    ),
    "relation": (
        "Is the {thing} {relation} the {other}?",
        "Is the {thing} {relation} the {other} in the image?",
        "Do you see the {thing} {relation} the {other}?",
        "Can you see the {thing} {relation} the {other}?",
        "Does the image show the {thing} {relation} the {other}?",
        "In the image, is the {thing} {relation} the {other}?",
        "Is it true that the {thing} is {relation} the {other}?",
        "Would you say the {thing} is {relation} the {other}?",
    ),
    "activity": (
        "Is the {thing} moving?",
        "Is the {thing} in motion?",
        "Do you see the {thing} moving?",
        "Does the {thing} move?",
        "Is the {thing} moving in the image?",
        "Can you see the {thing} moving?",
        "Does the image show the {thing} moving?",
        "Tell me, is the {thing} moving?",
    ),
}

HELD_OUT_PHRASINGS: Final[dict[QuestionKind, tuple[str, ...]]] = {
    "existence": ("Does the image contain {a_thing}?", "Any {things} in the image?"),
    "color": ("The {thing} is of which color?", "Name the color of the {thing}."),
    "count": ("What number of {things} do you see?", "Count how many {things} there are."),
    "position": ("The {thing} is in which part of the image?", "Tell me the position of the {thing}."),
    "relation": ("Is the {thing} found {relation} the {other}?", "Tell me, is the {thing} {relation} the {other}?"),
    "activity": ("Would you say the {thing} is moving?", "Can you tell if the {thing} is moving?"),
}

FRAME_PHRASINGS: Final[tuple[str, ...]] = (
    "What color is the frame of the {thing}?",
    "Which color is the frame of the {thing}?",
    "What is the color of the frame of the {thing}?",
    "Which color does the frame of the {thing} have?",
)
HELD_OUT_FRAME_PHRASINGS: Final[tuple[str, ...]] = ("Name the color of the frame of the {thing}.",)
"""For pictures within the picture, whose frame has a colour."""

DESCRIBE_PHRASINGS: Final[tuple[str, ...]] = (
    "Describe the scene briefly.",
    "What do you see?",
    "What does the image show?",
    "Tell me what you see.",
    "Describe what you see in one sentence.",
    "What is in the image?",
)

_IRREGULAR: Final = {"deer": "deer", "sheep": "sheep", "fish": "fish", "mouse": "mice", "man": "men", "woman": "women"}


def plural_of(name: str) -> str:
    """Plural of a noun: of the catalogue, irregular, or by rule."""
    if name in KINDS:
        return KINDS[name].plural
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def with_color(kind: str, color: str | None) -> str:
    """A kind with its colour before it, if one is given."""
    return f"{color} {kind}" if color else kind


def write(template: str, kind: str, color: str | None, other: str = "", relation: str = "") -> str:
    """Fill in a wording.

    Args:
        template: One of the wordings above.
        kind: What it asks about.
        color: Narrows it down.
        other: The other object of a relation, in words.
        relation: The relation, in words.
    """
    thing = with_color(kind, color)
    article = "an" if thing[0] in "aeiou" else "a"
    return template.format(
        thing=thing,
        things=with_color(plural_of(kind), color),
        a_thing=f"{article} {thing}",
        other=other,
        relation=relation,
    )
