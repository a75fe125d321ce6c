"""Texts of peers as they may reach a terminal or a log line."""

from __future__ import annotations


def printable(text: str, keep: str = "\n") -> str:
    """The text with every character that would steer a terminal, or that no encoding has, as a backslash escape.

    Control characters move the cursor and change colours, titles and clipboards; characters of direction make a line
    read as another one; half a surrogate pair cannot be encoded.

    Args:
        text: any text.
        keep: characters that stay all the same.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else ascii(char)[1:-1] for char in text)
