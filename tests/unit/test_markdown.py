"""Tables in Markdown."""

import pytest

from tools.markdown import table


def test_a_table_has_heads_a_rule_and_rows():
    assert table(["model", "dB"], [("demo", 41.1), ("clips", "")]) == (
        "| model | dB |\n| --- | --- |\n| demo | 41.1 |\n| clips |  |"
    )


def test_a_row_with_a_wrong_number_of_cells_is_an_error():
    with pytest.raises(ValueError, match=r"a row has 1 cells, the table 2 columns: \['demo'\]"):
        table(["model", "dB"], [["demo"]])
