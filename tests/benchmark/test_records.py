import csv
import os

import pytest
from benchmark.made_up import plain, record

from research.benchmark.records import NAMES, Store


def stored(folder, *records):
    """The records that a new store reads after another store has saved these."""
    store = Store(folder)
    store.add(records)
    store.save()
    return Store(folder).records


def test_records_come_back_as_they_were_saved_in_a_file_of_their_model(tmp_path):
    kept = [record("a", time=None, condition='odd, "quoted"'), record("b", model="clips", psnr=12.34), plain()]
    assert set(stored(tmp_path / "new", *kept)) == set(kept)
    assert sorted(os.listdir(tmp_path / "new")) == ["clips.csv", "demo.csv"]


def test_a_file_has_a_header_and_is_sorted_whatever_was_added_first(tmp_path):
    stored(tmp_path, record("b"), record("a", seed=10), record("a", seed=9))
    rows = list(csv.DictReader((tmp_path / "demo.csv").open()))
    assert tuple(rows[0]) == NAMES
    assert [(row["method"], row["seed"]) for row in rows] == [("a", "9"), ("a", "10"), ("b", "1")]


def test_numbers_are_kept_to_four_digits(tmp_path):
    (found,) = stored(tmp_path, record("a", work=1 / 3, psnr=29.98765, bytes=123456789))
    assert (found.work, found.psnr, found.bytes) == (0.3333, 29.99, 123456789)


def test_a_measurement_made_again_takes_the_place_of_the_old_one_and_of_no_other(tmp_path):
    stored(tmp_path, record("a", psnr=1.0), record("a", seed=2, psnr=2.0), record("b", psnr=3.0))
    found = stored(tmp_path, record("a", psnr=9.0, library="another version"))
    assert sorted(row.psnr for row in found) == [2.0, 3.0, 9.0]


def test_a_plain_video_that_turns_out_broken_is_still_one_video(tmp_path):
    stored(tmp_path, plain())
    assert [row.setting for row in stored(tmp_path, plain(setting="broken"))] == ["broken"]


def test_only_files_to_which_something_was_added_are_written(tmp_path):
    store = Store(tmp_path)
    store.add([record("a"), record("a", model="clips")])
    store.save()
    clips, demo = ((tmp_path / f"{name}.csv").stat() for name in ("clips", "demo"))
    store.add([record("b")])
    store.save()
    assert (tmp_path / "clips.csv").stat() == clips
    assert (tmp_path / "demo.csv").stat().st_ino != demo.st_ino, "a reader of the old file keeps it"


def test_what_save_did_not_write_is_refused_with_its_place(tmp_path):
    stored(tmp_path, record("a"))
    file = tmp_path / "demo.csv"
    good = file.read_text()
    for bad in (good.replace("0.5", "half", 1), good + "short,row\n"):
        file.write_text(bad)
        with pytest.raises(ValueError, match=r"demo\.csv, line [23]"):
            Store(tmp_path)
    file.write_text(good.replace("psnr", "quality"))
    with pytest.raises(ValueError, match="its columns are not model"):
        Store(tmp_path)
