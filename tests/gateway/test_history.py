"""What is on disk: once each, bounded, found again, and never in the way."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from latentbus.gateway import history as history_module
from latentbus.gateway.history import FILE, History, Search
from latentbus.gateway.models import AlertView, GapView
from pipeline.config.gateway_settings import HistorySettings
from schemas.errors import HistoryError
from tests.gateway.views import view
from tests.source_names import ROOT

WIDE = HistorySettings(max_days=3650)


def history(path: Path | None = None, bounds: HistorySettings = WIDE, now_s: float = 2000.0) -> History:
    return History(path, bounds, wall_s=lambda: now_s)


def texts(kept: History, **search: object) -> list[str]:
    found, _ = kept.search(Search(**search))  # type: ignore[arg-type]
    return [one.text for _, one in found]


def test_the_first_outcome_of_a_query_stays(tmp_path: Path) -> None:
    kept = history(tmp_path / FILE)
    assert kept.add([view(1, "yes"), view(2, "no")]) == 2
    assert kept.add([view(1, "perhaps"), view(3, "no")]) == 1
    assert texts(kept) == ["no", "no", "yes"]
    assert kept.find("gate/00000001-1/car") == view(1, "yes")
    assert (kept.counters["stored"], kept.counters["repeated"]) == (3, 1)


def test_what_is_looked_for_is_found() -> None:
    kept = history()
    kept.add([
        view(1, "yes"), view(2, "no"), view(3, "100% sure"), view(4, "a_b"), view(5, "axb"),
        view(6, "red", camera="yard", query_id="yard/1", question_id="bus", question="Which colour has the BUS?"),
        view(7, "", outcome="failed", reason="engine"),
    ])  # fmt: skip
    assert texts(kept, camera="yard") == ["red"]
    assert texts(kept, question="bus") == ["red"]
    assert texts(kept, outcome="failed") == [""]
    assert texts(kept, text="bus?") == ["red"]
    assert texts(kept, text="100%") == ["100% sure"]
    assert texts(kept, text="a_b") == ["a_b"]
    assert texts(kept, since=1002, until=1004) == ["100% sure", "no"]
    assert texts(kept, cameras=frozenset({"yard"})) == ["red"]
    assert texts(kept, camera="gate", cameras=frozenset({"yard"})) == []
    assert texts(kept, text="'; DROP TABLE outcome; --") == []


def test_pages_follow_one_another() -> None:
    kept = history()
    kept.add([view(number, str(number)) for number in range(5)])
    found, _ = kept.search(Search(limit=2))
    assert [one.text for _, one in found] == ["4", "3"]
    assert texts(kept, before=found[-1][0], limit=2) == ["2", "1"]


def test_gaps_belong_to_the_page_that_they_fall_in() -> None:
    kept = history()
    kept.add([view(number) for number in range(10)])
    for began in (1002.2, 1007.2):
        kept.add_gap(GapView(began=began, ended=began + 0.5, kept=False, reason="away"))
    newest, gaps = kept.search(Search(limit=4))
    assert [gap.began for gap in gaps] == [1007.2]
    _, gaps = kept.search(Search(limit=4, before=newest[-1][0]))
    assert [gap.began for gap in gaps] == [1002.2]
    assert [gap.began for gap in kept.gaps(5)] == [1007.2, 1002.2]


def test_what_is_old_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "TRIM_EVERY_ROWS", 1)
    kept = history(bounds=HistorySettings(max_days=1), now_s=1000.5 + 86_400)
    kept.asked({"q": "old?"})
    kept.add([view(0, "old"), view(1, "new")])
    assert texts(kept) == ["new"]
    assert kept.counters["deleted_too_old"] == 1


def test_its_file_stays_within_its_bound(tmp_path: Path) -> None:
    kept = history(tmp_path / FILE, HistorySettings(max_mb=1, max_days=3650))
    for batch in range(20):
        kept.add([view(500 * batch + number, f"{number} " * 50) for number in range(500)])
        assert kept.size_bytes() <= 1_000_000 + 600_000
    kept.trim()
    assert kept.size_bytes() <= 1_000_000
    assert (tmp_path / FILE).stat().st_size <= 1_700_000
    assert kept.find("gate/00000001-9999/car") is not None, "the newest stay"
    assert kept.find("gate/00000001-0/car") is None
    assert kept.counters["deleted_too_many"] > 0


def test_the_latest_of_each_question_come_back_after_a_restart(tmp_path: Path) -> None:
    kept = history(tmp_path / FILE)
    kept.add([view(number, str(number)) for number in range(10)])
    kept.add([view(20 + number, f"once {number}", ad_hoc=True, question_id=f"ask-{number}") for number in range(10)])
    kept.close()
    again = history(tmp_path / FILE)
    assert [one.text for one in again.latest(3, 100)] == ["7", "8", "9", "once 7", "once 8", "once 9"]
    assert [one.text for one in again.latest(3, 2)] == ["once 8", "once 9"]


@pytest.mark.parametrize("damage", ["a header", "a page", "nonsense", "another version"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    kept = history(path)
    kept.add([view(number, "word " * 50) for number in range(300)])
    kept.close()
    if damage == "another version":
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    elif damage == "nonsense":
        path.write_bytes(b"x" * 5000)
    else:
        data = bytearray(path.read_bytes())
        data[0 if damage == "a header" else 3 * 4096 : (0 if damage == "a header" else 3 * 4096) + 3000] = (
            b"\xff" * 3000
        )
        path.write_bytes(data)
    again = history(path)
    assert again.add([view(1)]) == 1
    assert texts(again) == ["yes"]
    assert [file.name for file in tmp_path.glob("*.damaged")] == ["history.damaged"]
    assert again.counters["files_set_aside"] == 1


def test_damage_that_shows_later_costs_the_call_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / FILE
    kept = history(path)
    kept.add([view(number, "word " * 50) for number in range(300)])
    kept._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    kept._database.execute("PRAGMA shrink_memory")

    def look() -> None:
        for _ in range(3):
            kept.search(Search(text="nothing like it"))
            kept.add([view(1000)])

    with pytest.raises(HistoryError):
        look()
    assert kept.add([view(1001)]) == 1
    assert kept.counters["files_set_aside"] == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HistoryError, match=r"gateway\.state_dir"):
        history(tmp_path / "file" / FILE)


def test_a_search_that_takes_too_long_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = history()
    kept.add([view(number, "word " * 100) for number in range(2_000)])
    monkeypatch.setattr(history_module, "QUERY_LIMIT_S", -1.0)
    monkeypatch.setattr(history_module, "_PROGRESS_STEPS", 100)
    with pytest.raises(HistoryError, match="narrow it"):
        kept.search(Search(text="%" * 50))
    monkeypatch.undo()
    assert len(texts(kept, limit=5)) == 5, "the next one is answered"


def test_alerts_that_go_on_come_first() -> None:
    kept = history()
    alerts = [
        kept.add_alert(AlertView(id=0, rule="r", source="answer", severity="info", text=str(number), began=1.0))
        for number in range(3)
    ]
    assert [alert.id for alert in alerts] == [1, 2, 3]
    kept.end_alert(alerts[2].model_copy(update={"ended": 5.0}))
    assert [(alert.id, alert.ended) for alert in kept.alerts(10)] == [(2, None), (1, None), (3, 5.0)]


def test_old_alerts_go_but_not_those_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MAX_ALERTS_KEPT", 2)
    kept = history()
    for number in range(6):
        alert = kept.add_alert(AlertView(id=0, rule="r", source="answer", severity="info", text="", began=1.0))
        if number:
            kept.end_alert(alert.model_copy(update={"ended": 5.0}))
    assert [alert.id for alert in kept.alerts(10)] == [1, 6, 5]


WRITER = """
import sys
from pathlib import Path
from latentbus.gateway.history import History
from pipeline.config.gateway_settings import HistorySettings
from tests.gateway.views import view
kept = History(Path(sys.argv[1]), HistorySettings(max_days=3650), wall_s=lambda: 2000.0)
number = 0
while True:
    kept.add([view(number), view(number + 1)])
    number += 2
    print(number, flush=True)
"""


def test_what_was_stored_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / FILE
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= 400:
            break
    writer.send_signal(signal.SIGKILL)
    told = [int(line) for line in writer.stdout] or [400]
    writer.wait()
    writer.stdout.close()
    kept = history(path)
    assert kept.count() >= told[-1]
    assert kept.count() % 2 == 0, "a batch is stored as a whole"
    assert kept.counters["files_set_aside"] == 0
