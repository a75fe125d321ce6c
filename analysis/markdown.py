"""Tables in Markdown: for reports that a command writes, and for the generated parts of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; a bar in a cell is escaped, a line break becomes a space.

    Args:
        head: names of the columns.
        rows: cells of each row, as many as the head has.

    Returns:
        One line a row, without a line break at the end.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def figures(report: Mapping[str, Any], level: int = 2) -> str:
    """A report as tables: single figures first, then a section for each group of them.

    Args:
        report: as it would be written as JSON.
        level: of the headings of the sections.

    Returns:
        Parts divided by an empty line. A list of records is a table, a group of groups with the same figures is a table
        with a column for each group, another group is a section of its own. Empty groups are left out.
    """
    single = {name: value for name, value in report.items() if not _is_group(value)}
    parts = [table(("figure", "value"), ((words(name), value_text(value)) for name, value in single.items()))]
    if not single:
        parts = []
    for name, value in report.items():
        if not _is_group(value) or not value:
            continue
        parts.append(f"{'#' * level} {words(name).capitalize()}")
        if isinstance(value, Mapping):
            parts.append(_groups(value) if _same_figures(value) else figures(value, level + 1))
        else:
            parts.append(_records(value, level))
    return "\n\n".join(parts)


def words(name: str) -> str:
    """The name of a figure in words."""
    return name.replace("_", " ")


def value_text(value: object) -> str:
    """A figure as text: integers in groups of three digits, fractions as they were rounded, nothing for ``None``."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:g}"
        case list() | tuple():
            return ", ".join(value_text(item) for item in value)
    return str(value)


def _cell(value: object) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def _is_group(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping)


def _same_figures(groups: Mapping[str, Any]) -> bool:
    inner = list(groups.values())
    return (
        len(inner) > 1
        and all(isinstance(group, Mapping) and group.keys() == inner[0].keys() for group in inner)
        and not any(_is_group(value) for group in inner for value in group.values())
    )


def _groups(groups: Mapping[str, Any]) -> str:
    names = next(iter(groups.values()))
    return table(
        ("", *map(words, groups)),
        ((words(name), *(value_text(group[name]) for group in groups.values())) for name in names),
    )


def _records(records: Sequence[Mapping[str, Any]], level: int) -> str:
    names = list(dict.fromkeys(name for record in records for name in record))
    if any(_is_group(value) for record in records for value in record.values()):
        return "\n\n".join(figures(record, level + 1) for record in records)
    return table(
        [words(name) for name in names], ([value_text(record.get(name)) for name in names] for record in records)
    )
