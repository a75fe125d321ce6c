"""The table of known bugs of brokers."""

from __future__ import annotations

from analysis.markdown import table


def bugs_table() -> str:
    """Known bugs, by the version that mends them."""
    from latentbus.doctor.known_bugs import BUGS, text_of

    rows = [
        (text_of(bug.fixed), "" if bug.since is None else text_of(bug.since), f"{bug.text[0].upper()}{bug.text[1:]}")
        for bug in BUGS
    ]
    return table(("mended in", "since", "what happens"), rows)
