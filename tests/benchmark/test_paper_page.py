"""All of docs/paper_tables.md comes from docs/figures.json."""

import json
from pathlib import Path

import pytest

from research.benchmark import codebook, made, paper_page, real_weights

MADE = {"command": "python -m it", "date": "2026-01-02", "commit": "abc", "torch": "9", "machine": "a machine"}

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def stored():
    return {"codebook_100": {"made": MADE} | codebook.codebook_100()}


def test_new_figures_replace_the_old_of_the_same_name_and_no_others(tmp_path, stored):
    figures = tmp_path / "figures.json"
    paper_page.write(stored, figures)
    changed = json.loads(json.dumps(stored))
    changed["codebook_100"]["fast, 100 steps"][0]["computed"] = 77
    paper_page.write(changed, figures)
    assert "| 77 of 100 |" in (tmp_path / "paper_tables.md").read_text()
    paper_page.write({"vbench": vbench({})}, figures)
    page = (tmp_path / "paper_tables.md").read_text()
    assert "| 77 of 100 |" in page
    assert page == paper_page.page(json.loads(figures.read_text()))


def test_the_page_in_docs_is_the_one_made_from_the_figures_in_docs():
    assert (DOCS / "paper_tables.md").read_text() == paper_page.page(json.loads((DOCS / "figures.json").read_text()))


def test_what_needs_weights_that_were_not_there_says_not_run(stored):
    assert "not run: no weights" in paper_page.page(stored)
    assert "not run: no weights" not in paper_page.page(stored | {"vbench": vbench({})})


def test_every_section_says_how_it_was_made(stored):
    assert "`python -m it`, 2026-01-02, commit abc, torch 9, a machine." in paper_page.page(stored)


def test_vbench_gets_a_column_for_each_of_its_dimensions_or_the_page_says_it_was_not_run():
    assert "not run" in real_weights.section(vbench({}))
    assert "| motion_smoothness |" in (section := real_weights.section(vbench({"motion_smoothness": 0.98765})))
    assert section.rstrip().endswith("| 0.9877 |")


def vbench(scores):
    row = {"setting": "fast", "computed": 9, "total": 30, "seconds": 1.5, "psnr": 30.0, "ssim": 0.9}
    return {"made": MADE, "what": "a model", "rows": [row | {"motion_kept": 1.0, "vbench": scores}]}


def test_the_circumstances_name_the_processor_the_cores_and_what_torch_uses():
    text = made.circumstances("python -m it")["machine"]
    assert "cores" in text
    assert "used by torch" in text
