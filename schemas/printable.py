"""Texts of peers and libraries as they may reach a terminal, a log line or the reason of an outcome."""

from __future__ import annotations

from schemas.limits import MAX_REASON_CHARS


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


def as_reason(text: str, max_chars: int = MAX_REASON_CHARS) -> str:
    """Any text as a message may carry it for its reason: one line, cut to what the field holds.

    Errors of libraries and of the operating system have lines of their own, and file names that are no text.
    """
    return printable(text, keep="")[:max_chars]
