"""The published tables are those that the published code was recorded with."""

import json
from pathlib import Path

import pytest

from adacache_core import FAST_30, FAST_100, PRESETS, SLOW_30, TABLES
from adacache_core.decide.scaling import scale_window

GOLDEN = Path(__file__).parents[1] / "parity/golden/scheduler_cases.json"
PARAMS = {case["name"]: case["params"] for case in json.loads(GOLDEN.read_text())["cases"]}


@pytest.mark.parametrize(
    ("table", "case"), [(FAST_30, "fast30_slow"), (SLOW_30, "slow30_ushape"), (FAST_100, "n100_slow")]
)
def test_a_table_is_the_one_of_the_published_code(table, case):
    assert [list(entry) for entry in table.entries] == PARAMS[case]["codebook"]
    assert table.steps == PARAMS[case]["num_steps"]


@pytest.mark.parametrize("case", ["fast30_moreg1_growing", "n100_moreg1_growing"])
def test_moregs_window_is_the_one_of_the_published_code(case):
    assert list(scale_window(PARAMS[case]["num_steps"])) == PARAMS[case]["moreg_steps"]


def test_presets_are_published_tables():
    assert set(PRESETS.values()) < set(TABLES.values())
