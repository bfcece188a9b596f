import json

import pytest
from benchmark.made_up import record

from tools.benchmark.records import load, merged, save


def test_records_come_back_as_they_were_saved(tmp_path):
    kept = [record("a"), record("b", psnr=12.345)]
    save(tmp_path / "r.json", kept)
    assert load(tmp_path / "r.json") == kept


def test_the_file_is_a_json_list_with_a_record_a_line(tmp_path):
    save(tmp_path / "r.json", [record("b"), record("a")])
    text = (tmp_path / "r.json").read_text()
    assert [row["method"] for row in json.loads(text)] == ["a", "b"]
    assert len(text.splitlines()) == 4


def test_no_file_holds_no_records(tmp_path):
    assert load(tmp_path / "none.json") == []


def test_a_record_with_a_missing_field_is_refused(tmp_path):
    (tmp_path / "r.json").write_text('[{"method": "a"}]')
    with pytest.raises(TypeError, match="missing"):
        load(tmp_path / "r.json")


def test_a_measurement_made_again_takes_the_place_of_the_old_one_and_of_no_other():
    old = [record("a", psnr=1.0), record("a", seed=2, psnr=2.0), record("b", psnr=3.0)]
    new = merged(old, record("a", psnr=9.0, library="another version"))
    assert sorted(row.psnr for row in new) == [2.0, 3.0, 9.0]
