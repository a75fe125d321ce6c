"""The live table as a picture, for a page that shows what a run looks like."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from rich.console import RenderableType
from rich.terminal_theme import MONOKAI

from latentbus.reports.output_files import write_text
from latentbus.reports.safe_console import SafeConsole

_WIDTH: Final = 138
"""Columns that no cell of the rendered cameras is cut at."""
# As rich draws it, without the frame of a window and without fonts from another host.
_SVG: Final = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
    font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def table_svg(shown: RenderableType, title: str) -> str:
    """What a terminal shows, as SVG.

    Args:
        shown: the live table.
        title: above it.
    """
    console = SafeConsole(width=_WIDTH, file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor")
    console.print(shown)
    console.print()  # rich cuts the last line off at its baseline
    drawn = console.export_svg(title=title, theme=MONOKAI, code_format=_SVG, unique_id="latentbus")
    return "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())


def write_picture(path: Path, shown: RenderableType, title: str) -> None:
    """Write :func:`table_svg` to a file.

    Raises:
        ConfigError: it cannot be written.
    """
    write_text(path, table_svg(shown, title), "--picture")
