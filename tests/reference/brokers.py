"""Tables of brokers: known bugs of Mosquitto, and what the second broker of the tests does otherwise."""

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


def differences_table() -> str:
    """What the second broker does otherwise, with the tests that show it."""
    from tests.second_broker import DIFFERENCES

    return table(
        ("it", "so", "tests in `tests/bus`"),
        ((known.text, known.means, ", ".join(f"`{name}`" for name in known.tests)) for known in DIFFERENCES),
    )
