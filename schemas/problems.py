"""A problem that pydantic found, in our words: what is wrong and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.types import NAME_PATTERN, TEXT_PATTERN

NAME_RULE = "lower case letters, digits, - and _, at most 32, no - or _ first"
MAX_ECHO_CHARS = 100
"""What an error repeats of a wrong value."""

_PHRASES = {
    "missing": "missing",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "string_unicode": "must be a text in UTF-8",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "bytes_type": "must be bytes",
    "bytes_too_short": "must be at least {min_length} bytes",
    "bytes_too_long": "must be at most {max_length} bytes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "none_required": "must be null",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "path_type": "must be a path",
    "dict_type": "must be a section of keys and values",
    "model_type": "must be a section of keys and values",
    "model_attributes_type": "must be a section of keys and values",
    "model_key_type": "must be a text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "named_tuple_type": "must be a list",
    "too_short": "needs at least {min_length}, has {actual_length}",
    "too_long": "has {actual_length}, at most {max_length} are allowed",
    "json_invalid": "is not JSON: {error}",
    "json_type": "must be JSON",
    "extra_forbidden": "unknown key",
}
"""What each kind of pydantic's errors is called here; the names in braces are of its context."""


def problem_text(details: Mapping[str, Any]) -> str:
    """What is wrong, in a line that quotes the value only where its form is the problem.

    Args:
        details: one entry of ``ValidationError.errors()``, with its context.
    """
    kind, context = details["type"], details.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        pattern = context.get("pattern")
        if pattern == NAME_PATTERN:
            return f"is no name: write {NAME_RULE}"
        if pattern == TEXT_PATTERN:
            return "is blank: write a text"
        return "has characters that are not allowed here"
    if kind == "value_error":
        return str(context.get("error", details["msg"])).removeprefix("Value error, ")
    phrase = _PHRASES.get(kind)
    if phrase is None:
        return str(details["msg"])
    try:
        return phrase.format(**context)
    except (KeyError, IndexError, ValueError):
        return str(details["msg"])


def echo(value: object) -> str:
    """A wrong value as an error repeats it: a person chose it, or nobody did."""
    if isinstance(value, int) and value.bit_length() > 4 * MAX_ECHO_CHARS:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MAX_ECHO_CHARS else f"{text[:MAX_ECHO_CHARS]}..."
