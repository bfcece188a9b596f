"""Tests tools.gpu without a GPU: the rehearsal, parts that fail, and the page."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tools.gpu import __main__ as main
from tools.gpu import carried, hosted, job, page, prepare, runner
from tools.gpu.job import Job
from tools.gpu.parts import PARTS, Part
from tools.gpu.rows import Rows, read_rows
from tools.host import PLACES, find_host

DOCS = Path(__file__).parents[2] / "docs"
MIB = 2**20


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory) -> Path:
    """A folder with the results of a rehearsal."""
    if find_host() is None:
        pytest.skip(f"no ComfyUI was found (looked at {PLACES}): the rehearsal of the GPU run is not run")
    out = tmp_path_factory.mktemp("rehearsed")
    main.main(["run", "--rehearse", "--out", str(out)])
    return out


def test_every_part_of_a_rehearsal_is_green(rehearsed):
    ended = page.read(rehearsed)["run"]["parts"]
    log = (rehearsed / runner.LOG).read_text()
    assert {name: (how["state"], how["said"]) for name, how in ended.items()} == {
        part.name: (runner.FINISHED, "") for part in PARTS
    }, log[-3000:]


def test_what_a_rehearsal_leaves_can_be_sent_back(rehearsed):
    left = list(rehearsed.iterdir())
    assert len(left) <= 8
    assert all(each.is_file() and each.stat().st_size < 16 * MIB for each in left)


def test_a_rehearsal_has_what_the_page_shows(rehearsed):
    found = page.read(rehearsed)
    for part in PARTS:
        rows = found["rows"][part.name]
        assert any(set(row) & {*part.columns} for row in rows), part.name
    laws, cost = found["rows"]["laws"], found["rows"]["cost"]
    assert {law for row in laws for law in row["laws"].split()} == set("123456")
    assert all(row["passed"] == row["of"] for row in laws)
    assert {(row["way"], row["place"]) for row in cost} == {("auto", ""), ("table", "main"), ("table", "offload")}
    by_table = [row["counted"] for row in cost if row["way"] == hosted.TABLE]
    assert by_table == [hosted.STEPS / hosted.COMPUTED] * len(by_table)
    assert all(row["counted"] > 1 for row in cost)
    text = page.page(found)
    assert "**Failed**" not in text
    assert "**failed**" not in text


def test_a_rehearsal_is_not_stored_as_a_result(rehearsed, tmp_path, capsys):
    stored = tmp_path / "gpu.json"
    assert page.keep([rehearsed], stored) == 1
    assert "rehearsal" in capsys.readouterr().out
    assert not stored.exists()


def test_a_rehearsed_training_leaves_its_checkpoint_and_log_and_says_how_far_it_came(tmp_path, monkeypatch):
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    from research import demo_model
    from research.small_models import Stage, new_wan
    from tools.gpu import train

    tiny = demo_model.ARCHITECTURE | {"attention_head_dim": 12, "ffn_dim": 48, "num_layers": 2}
    subject = replace(train.SUBJECT, make=lambda: new_wan(tiny), curriculum=(Stage(1, 2, 1.0),))
    monkeypatch.setattr(train, "SUBJECT", subject)
    rows = Rows(tmp_path / "train.json")
    train.run(Job(tmp_path, 600, True), rows)
    (row,) = read_rows(rows.path)
    assert (row["step"], row["of"], row["clips"]) == (2, 2, 4)
    assert row["best"] == pytest.approx(row["loss"])
    assert {each.name for each in tmp_path.iterdir()} == {"demo_wan.safetensors", "log.jsonl", "train.json"}


# Parts that fail

WRITES = "import json, pathlib; pathlib.Path({path!r}).write_text(json.dumps([{row!r}]))"


def stand_in(name: str, code: str, row: dict | None = None, **settings) -> tuple[Part, str, dict | None]:
    return Part(name, rehearsed=settings.pop("seconds", 30), **settings), code, row


# Writes the id of the process that it starts into a file beside it.
STARTS_ANOTHER = """
import pathlib, subprocess, sys, time
another = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1], "another").write_text(str(another.pid))
time.sleep(60)
"""

STAND_INS = [
    stand_in("good", "", {"ok": True}),
    stand_in("raises", "raise ValueError('of a reason')", {"ok": True}),
    stand_in("late", STARTS_ANOTHER, {"ok": True}, seconds=1.5),
    stand_in("faulty", "", {"ok": False}),
    stand_in("silent", ""),
    stand_in("cannot", f"print('cannot: no card'); raise SystemExit({runner.NOTHING_TO_DO})"),
]


@pytest.fixture
def ended(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "GRACE", 0)
    by_name = {part.name: (code, row) for part, code, row in STAND_INS}

    def start(part: Part, job: Job) -> list[str]:
        code, row = by_name[part.name]
        before = "" if row is None else WRITES.format(path=str(job.out / f"{part.name}.json"), row=row)
        return [sys.executable, "-c", f"{before}\n{code}", str(job.out)]

    return runner.run([part for part, _, _ in STAND_INS], tmp_path, True, 1, start)


def test_a_part_that_goes_wrong_is_told_and_the_others_run(ended, tmp_path):
    states = {name: how["state"] for name, how in ended.items()}
    assert states == {
        "good": runner.FINISHED,
        "raises": runner.FAILED,
        "late": runner.OVER,
        "faulty": runner.FAILED,
        "silent": runner.FAILED,
        "cannot": runner.NOT_RUN,
    }
    assert ended["raises"]["said"] == "status 1: ValueError: of a reason"
    assert ended["faulty"]["said"] == "1 of 1 rows found a fault"
    assert ended["silent"]["said"] == "it ended without a row"
    assert ended["cannot"]["said"] == "cannot: no card"
    assert read_rows(tmp_path / "late.json") == [{"ok": True}]  # its rows until then count
    assert json.loads((tmp_path / runner.RUN).read_text())["parts"] == ended


def test_what_a_late_part_started_ends_with_it(ended, tmp_path):
    status = Path("/proc", (tmp_path / "another").read_text(), "stat")
    for _ in range(50):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("it still runs")


def test_a_part_for_which_no_time_is_left_is_not_begun(tmp_path):
    ended = runner.run([Part("late")], tmp_path, True, 0, start=None)
    assert ended["late"]["state"] == runner.NOT_RUN
    assert ended["late"]["said"] == "no time was left"


def test_on_a_card_parts_leave_the_later_ones_their_time(tmp_path):
    limits = []

    def start(part: Part, job: Job) -> list[str]:
        limits.append(job.seconds)
        return [sys.executable, "-c", ""]

    runner.run([Part("one", seconds=60), Part("two", seconds=60, least=50)], tmp_path, False, 1, start)
    assert limits[0] <= 10 < limits[1]


def test_a_run_that_is_cut_off_says_where(tmp_path):
    def start(part: Part, job: Job) -> list[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run([Part("one"), Part("two")], tmp_path, True, 1, start)
    parts = json.loads((tmp_path / runner.RUN).read_text())["parts"]
    assert parts["one"]["said"] == "the run was cut off in it"
    assert parts["two"]["said"] == "the run was cut off before it"


def test_a_child_that_goes_wrong_is_told_and_its_rows_count(tmp_path, monkeypatch):
    codes = {"good": "", "raises": "raise ValueError", "late": "import time; time.sleep(60)"}

    def command(what, name, job, seconds, *more):
        told, path = json.loads(more[1]), more[3]
        return [sys.executable, "-c", f"{WRITES.format(path=path, row={'figure': 1})}\n{codes[told['what']]}"]

    monkeypatch.setattr(job, "command", command)
    rows = Rows(tmp_path / "rows.json")
    job.spread(Job(tmp_path, 30, True), rows, "laws", {name: {"what": name} for name in codes}, 3, 1.5)
    told = {key: row.get("not_run") for key, row in rows.by_key.items()}
    assert told == {
        "good 0": None,
        "raises 0": None,
        "late 0": None,
        "raises, end": "the rest: ended with status 1",
        "late, end": "the rest: ran over its time",
    }
    assert read_rows(rows.path) == list(rows.by_key.values())


def test_children_that_no_time_is_left_for_are_told(tmp_path):
    rows = Rows(tmp_path / "rows.json")
    job.spread(Job(tmp_path, 0, True), rows, "laws", {"one": {"model": "Wan"}}, 1, 10)
    assert read_rows(rows.path) == [{"model": "Wan", "not_run": "no time was left"}]


# The page


def test_the_readme_says_what_the_results_in_docs_say():
    found = json.loads((DOCS / "gpu.json").read_text())
    readme = page.README.read_text()
    assert page.with_sentence(readme, found) == readme
    run = {"card": "A card", "date": "2026-12-01"}
    laws = {"run": run, "rows": {"laws": [{"model": "Wan", "passed": 3, "of": 4}]}}
    assert "On a card (A card, 2026-12-01): 3 of 4 tests with tiny models pass." in page.with_sentence(readme, laws)
    assert page.with_sentence(page.with_sentence(readme, laws), found) == readme


def test_the_page_in_docs_is_the_one_made_from_the_results_in_docs():
    assert (DOCS / "gpu.md").read_text() == page.page(json.loads((DOCS / "gpu.json").read_text()))


def test_without_a_run_every_part_says_not_run_and_so_does_the_sentence():
    text = page.page({})
    assert text.count("**Not run**: there was no card.") == len(PARTS)
    assert page.sentence({}) == "Nothing here has run on a CUDA card yet."


RUN = {"card": "a card", "allocator": "native", "cores": 4, "date": "2026-01-02", "commit": "abc"}
RUN |= {"torch": "9", "python": "3", "comfyui": "1"}


def results(**rows) -> dict:
    ended = {name: {"state": runner.FINISHED, "said": "", "seconds": 1.0} for name in rows}
    return {"run": RUN | {"rehearsal": False, "parts": ended}, "rows": rows}


def test_the_page_has_every_figure_and_says_what_failed_and_what_did_not_run():
    found = results(
        laws=[{"model": "Wan", "laws": "1 2", "passed": 3, "of": 4, "ok": False, "failed": {"test_law_1": "a | b\nc"}}],
        cost=[{"model": "big", "plain_s": 2.0, "not_run": "does not fit on this card"}],
    )
    found["run"]["parts"]["demo"] = {"state": runner.OVER, "said": "stopped after 5 s", "seconds": 5.0}
    text = page.page(found)
    assert "a card, 4 cores, 2026-01-02, commit abc, torch 9, Python 3, ComfyUI 1, allocator native." in text
    assert "| Wan | 1 2 | 3 | 4 | **failed** |" in text
    assert "- failed: `test_law_1`: a / b c" in text
    assert "| big | 2 | not run: does not fit on this card |" in text
    assert "**Over its time**: stopped after 5 s." in text
    assert "**Not run**: it was left out." in text


def test_the_sentence_has_the_laws_and_the_largest_model():
    cost = [
        {"model": name, "way": way, "plain_s": seconds, "computed_s": 9.5, "reused_s": 0.0021}
        for name, way, seconds in (("small", "auto", 1.0), ("big", "auto", 9.0), ("huge", "table", 20.0))
    ]
    laws = [{"model": "Wan", "passed": 3, "of": 4}, {"model": "Flux", "passed": 5, "of": 5}]
    laws.append({"model": "LTX-2", "not_run": "after its last test, the process crashed while it ended (-11)"})
    said = page.sentence(results(laws=laws, cost=cost))
    assert "8 of 9 tests with tiny models pass, and 1 test process crashed when it ended." in said
    assert "big, with random weights, takes 9.00 s; with auto 9.50 s if it is computed, and 2.1 ms if it is" in said


def test_results_are_kept_as_they_came(tmp_path):
    (tmp_path / runner.RUN).write_text(json.dumps(results(laws=[])["run"]))
    Rows(tmp_path / "laws.json").put("one", {"passed": 1, "of": 1})
    stored = tmp_path / "docs.json"
    assert page.keep([tmp_path], stored) == 0
    assert json.loads(stored.read_text())["rows"]["laws"] == [{"passed": 1, "of": 1}]
    assert stored.with_suffix(".md").read_text() == page.page(json.loads(stored.read_text()))
    assert page.keep([tmp_path / "nowhere"], stored) == 1


def test_of_a_part_that_ran_twice_the_later_counts_and_another_card_is_refused(tmp_path, capsys):
    def folder(name: str, card: str, **passed: int) -> Path:
        place = tmp_path / name
        place.mkdir()
        (place / runner.RUN).write_text(json.dumps(results(**passed)["run"] | {"card": card}))
        for part, count in passed.items():
            Rows(place / f"{part}.json").put("one", {"passed": count, "of": 9})
        return place

    stored = tmp_path / "docs.json"
    first, again, other = folder("1", "a", laws=1, held=2), folder("2", "a", held=3), folder("3", "b", held=4)
    assert page.keep([first, again], stored) == 0
    kept = json.loads(stored.read_text())["rows"]
    assert [row["passed"] for part in ("laws", "held") for row in kept[part]] == [1, 3]
    assert page.keep([first, other], stored) == 1
    assert "another card, b" in capsys.readouterr().out


# Files that are copied


@pytest.fixture
def gathered(tmp_path, monkeypatch):
    """Preparing gathers one file of one MiB."""
    folder = tmp_path / "carried"

    def gather(host, python):
        folder.mkdir()
        (folder / "it").write_bytes(bytes(MIB))

    for owner, name, stand_in in (
        (carried, "FOLDER", folder),
        (prepare, "ROOT", tmp_path),
        (prepare, "find_host", lambda: tmp_path),
        (prepare, "find_python", lambda host: tmp_path),
        (prepare, "_gather", gather),
        (prepare, "_check", lambda python: None),
        (prepare, "_travelling", lambda: [folder / "it"]),
    ):
        monkeypatch.setattr(owner, name, stand_in)


def test_preparing_says_how_much_it_is(gathered, capsys):
    assert prepare.prepare() == 0
    assert "1.0 MiB, with the clone's 1.0 MiB 2.0 MiB" in capsys.readouterr().out


def test_too_much_to_be_carried_is_an_error(gathered, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "LIMIT_MIB", 1.5)
    assert prepare.prepare() == 1
    assert "more than 1.5 MiB" in capsys.readouterr().err


def test_preparing_without_a_host_is_an_error(gathered, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "find_host", lambda: None)
    assert prepare.prepare() == 1
    assert "no ComfyUI was found" in capsys.readouterr().err
