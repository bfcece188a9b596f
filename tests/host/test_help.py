"""The help pages in `web/docs`: one per node, true to its schema, and with pictures and links that lead somewhere.

The frontend asks for `<node id>/<language>.md`, then for `<node id>.md`; either way it takes pictures from `web/docs`
and leaves links as they are, so that those must be whole addresses.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
LARGEST = 60_000  # bytes; the pictures come with every installation
COMMAND = "#adacache-speed-up"  # a link that web/js/speed_up.js knows
REPOSITORY = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)


@pytest.fixture(params=PAGES)
def page(request) -> Path:
    return DOCS / request.param


def _node(page: Path) -> str:
    return page.stem if page.parent == DOCS else page.parent.name


def test_every_node_has_a_page_and_every_page_a_node(schemas):
    assert {page.stem for page in DOCS.glob("*.md")} == set(schemas)
    assert {_node(DOCS / page) for page in PAGES} == set(schemas)


def test_an_english_page_has_a_row_for_every_input(schemas):
    """Of a page in another language too, once somebody has translated it."""
    missing = {
        str(DOCS / f"{node}.md"): rows
        for node, schema in schemas.items()
        if (rows := [each.id for each in schema.inputs if not _rows_of(DOCS / f"{node}.md", each.id)])
    }
    assert not missing, f"inputs without a row in the table of their page: {missing}"


def test_a_page_has_the_title_of_its_node_and_calls_inputs_as_the_node_does(page, schemas):
    node, words = _node(page), {}
    if page.parent != DOCS:
        words = json.loads((ROOT / "locales" / page.stem / "nodeDefs.json").read_text(encoding="utf-8"))[node]
    title = words.get("display_name", schemas[node].display_name)
    assert page.read_text(encoding="utf-8").startswith(f"# {title}\n")
    names = {key: each["name"] for key, each in words.get("inputs", {}).items()}
    for each in schemas[node].inputs:
        assert all(names.get(each.id, "") in row for row in _rows_of(page, each.id)), each.id


def _rows_of(page: Path, name: str) -> list[str]:
    """The first cells of the rows of a page's table that name this input."""
    rows = [line.split("|")[1] for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [row for row in rows if f"`{name}`" in row]


def test_a_page_names_no_input_that_is_not_there(page, schemas):
    known = {each.id for schema in schemas.values() for each in schema.inputs}
    assert set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))) <= known


def test_pictures_exist_and_are_small(page):
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (DOCS / picture).stat().st_size < LARGEST


def test_no_picture_lies_there_for_nothing():
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    assert all(f"(images/{picture.name})" in text for picture in (DOCS / "images").iterdir())


def test_links_lead_to_files_and_headings_of_this_repository(page):
    for link in re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", re.sub(r"!\[[^]]*\]\([^)]+\)", "", page.read_text("utf-8"))):
        if link == COMMAND:
            continue
        start = f"{REPOSITORY}/blob/main/"
        assert link.startswith(start)
        path, _, heading = link.removeprefix(start).partition("#")
        text = (ROOT / path).read_text(encoding="utf-8")
        anchors = [re.sub(r"[^\w -]", "", line.lstrip("# ")).replace(" ", "-").lower() for line in text.splitlines()]
        assert not heading or heading in anchors
