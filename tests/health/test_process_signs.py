"""What a process says of its own disks, certificates and clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from broker_config.certificates import CertificateAuthority
from pipeline.health.certificate import ends_s
from pipeline.health.process import (
    STEP_HOLDS_S,
    STEP_S,
    ClockWatch,
    DiskSpace,
    certificate_signs,
    disk_sign,
)
from pipeline.protocol.asking_rules import CLOCK_IS_SET_S

GB = 1_000_000_000
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "bad"),
    [
        (50 * GB, 100 * GB, False),
        (4 * GB, 100 * GB, True),
        (6 * GB, 100 * GB, None),
        (9 * GB, 100 * GB, False),
        (200_000_000, GB, True),
        (300_000_000, GB, None),
        (500_000_000, GB, False),
        (0, 0, True),
    ],
)
def test_a_disk_fills_by_share_or_by_bytes(free_bytes: int, total_bytes: int, bad: bool | None) -> None:
    sign = disk_sign("site", "north", "state_dir", DiskSpace(free_bytes, total_bytes))
    assert (sign.kind, sign.part, sign.bad) == ("disk-filling", "state_dir", bad)


@pytest.mark.parametrize("days", [1, 400, 20_000])
def test_the_end_of_a_certificate_is_read_as_the_library_reads_it(days: int) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    authority = CertificateAuthority.create(now, days=30_000)
    issued = authority.issue_device("north", now, days=days)
    assert ends_s(issued.certificate.decode()) == issued.not_after.timestamp()
    both = authority.certificate.decode() + issued.certificate.decode()
    assert ends_s(both) == issued.not_after.timestamp(), "the first of a chain to end"
    assert issued.not_after == pytest.approx(now + timedelta(days=days), abs=timedelta(days=1))


@pytest.mark.parametrize("pem", ["", "hello", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_an_error(pem: str) -> None:
    with pytest.raises(ValueError, match=r"certificate|built"):
        ends_s(pem)


def test_a_damaged_certificate_is_an_error_wherever_it_is_cut() -> None:
    whole = CertificateAuthority.create(datetime.now(UTC)).certificate.decode()
    lines = whole.splitlines()
    for cut in range(1, len(lines) - 1):
        damaged = "\n".join([lines[0], *lines[1:cut], lines[-1], ""])
        with pytest.raises(ValueError, match=r".+"):
            ends_s(damaged)


def test_a_certificate_ends_soon_thirty_days_before() -> None:
    (far, near, over) = certificate_signs("site", "north", {"far": 31 * DAY_S, "near": 29 * DAY_S, "over": -DAY_S}, 0.0)
    assert (far.bad, near.bad, over.bad) == (False, True, True)
    assert near.part == "near"


def test_a_clock_that_is_set_or_far_behind_is_wrong() -> None:
    watch, wall_s = ClockWatch(), CLOCK_IS_SET_S + DAY_S

    def wrong(at_s: float, shift_s: float = 0.0) -> bool | None:
        return watch.sign("site", "north", wall_s + shift_s + at_s, at_s).bad

    assert wrong(0) is False
    assert wrong(10, 5.0) is False, "set by a little, as NTP does"
    assert wrong(20, 5.0 + STEP_S) is True
    assert wrong(30, 5.0 + STEP_S) is True
    assert wrong(20 + STEP_HOLDS_S, 5.0 + STEP_S) is False
    assert watch.steps == 1
    assert ClockWatch().sign("site", "north", 1_000.0, 5.0).bad is True, "1970: nobody has set it"
