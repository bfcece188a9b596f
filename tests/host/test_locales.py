"""The translations in `locales`: of this pack's nodes only, with the numbers and words that users must find.

There is no `en`: what the frontend finds no translation for it shows as the schema has it, and that is English. So a
text may be missing, and nobody needs to know nine languages to add an input.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

LOCALES = Path(__file__).parents[2] / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())  # of these the frontend has all but de so far
WORDS = LOCALES.parent / "web" / "js" / "words.js"
NUMBER = re.compile(r"\d+(?:\.\d+)?")

Where = tuple[str, ...]  # of a text: node, then the keys down to it


def file_of(language: str) -> Path:
    return LOCALES / language / "nodeDefs.json"


@pytest.fixture(params=LANGUAGES)
def language(request) -> str:
    return request.param


@pytest.fixture
def translated(language) -> dict[Where, str]:
    return dict(_texts(json.loads(file_of(language).read_text(encoding="utf-8"))))


@pytest.fixture
def english(schemas) -> dict[Where, str]:
    """What the schemas say, at the places of a `nodeDefs.json`."""
    return dict(_texts({node: _in_words(schema) for node, schema in schemas.items()}))


@pytest.fixture
def both(english, translated) -> dict[Where, tuple[str, str]]:
    """Where a text is translated: what it says in English, and in the language."""
    return {where: (english[where], text) for where, text in translated.items() if where in english}


def _in_words(schema) -> dict:
    inputs = {each.id: {"name": each.display_name or each.id, "tooltip": each.tooltip} for each in schema.inputs}
    outputs = {str(index): {"name": each.display_name} for index, each in enumerate(schema.outputs)}
    words = {"display_name": schema.display_name, "description": schema.description}
    return words | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def _texts(words: dict, path: Where = ()) -> Iterator[tuple[Where, str]]:
    """Every text with where it stands."""
    for key, value in words.items():
        yield from _texts(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


def test_a_language_has_no_text_of_what_is_not_there(language, translated, english):
    left_over = [".".join(where) for where, text in translated.items() if where not in english or not text.strip()]
    assert not left_over, f"{file_of(language)} has texts of what no node has, or that say nothing: {left_over}"


def test_a_language_has_most_of_the_texts(language, translated, english):
    """Else it is no translation, and one would better see English throughout."""
    assert len(translated) > 0.8 * len(english), f"{file_of(language)} has {len(translated)} of {len(english)} texts"


def test_sentences_are_translated(both):
    sentences = [where for where in both if where[-1] in ("description", "tooltip")]
    assert sentences
    assert not [where for where in sentences if both[where][0] == both[where][1]]


def test_numbers_to_start_from_are_those_of_the_english_text(both):
    for where, (said, text) in both.items():
        assert set(NUMBER.findall(said)) <= set(NUMBER.findall(text)), (where, text)


def test_options_are_called_as_the_menu_shows_them(both, schemas):
    for node, schema in schemas.items():
        for each in schema.inputs:
            said, text = both.get((node, "inputs", each.id, "tooltip"), ("", ""))
            for option in getattr(each, "options", None) or []:
                if re.search(rf"\b{re.escape(option)}\b", said, re.IGNORECASE):
                    assert option in text, (node, each.id, option)


def test_no_text_has_what_the_frontend_would_take_for_its_message_syntax(translated):
    assert not [text for text in translated.values() if re.search(r"[{}@|]", text)]


def test_two_nodes_or_two_inputs_of_a_node_do_not_share_a_name(english, translated):
    shown = english | translated
    # A name among its like: of all nodes, or of the inputs (or outputs) of one node.
    names = [(where[-1:] if len(where) == 2 else where[:2], text) for where, text in shown.items() if _is_name(where)]
    assert len(names) == len(set(names)), [each for each in names if names.count(each) > 1]


def _is_name(where: Where) -> bool:
    return where[-1] in ("name", "display_name")


def _english_of_the_browser() -> dict[str, str]:
    words = re.findall(r'^  (?:"(.+?)"|(\w+)): "(.+)",$', WORDS.read_text(encoding="utf-8"), re.MULTILINE)
    return {quoted or bare: text for quoted, bare, text in words}


def test_the_browser_has_what_closeness_means_word_for_word_and_every_mark(pack):
    estimate, english = pack.adacache_core.closeness, _english_of_the_browser()
    estimates = [estimate.Estimate(db, db - below, db) for db in range(100) for below in (0, estimate.FAR_BELOW)]
    said = {each.words for each in estimates}
    assert {f"close {words}": words for words in said}.items() <= english.items()
    assert {key for key in english if key.startswith("close ")} == {f"close {words}" for words in said}
    assert {key for key in english if key.startswith("take ")} == {f"take {mark}" for mark in estimate.MARKS}


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_browser_says_is_translated_with_all_its_values(language):
    english = _english_of_the_browser()
    said = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))["AdaCache"]
    assert english.keys() == said.keys()
    for key, text in said.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", english[key])), (key, text)
        assert not re.search(r"[@|]", text), "the frontend would take it for its message syntax"
    assert [key for key, text in said.items() if text == english[key] and "{" not in text] == []


def test_the_host_finds_all_languages(host, monkeypatch, tmp_path):
    import folder_paths

    manager = pytest.importorskip("app.custom_node_manager")
    shutil.copytree(LOCALES, tmp_path / "adacache" / "locales")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    found = manager.CustomNodeManager().build_translations()
    assert sorted(found) == LANGUAGES
    assert "AdaCache" in found["ja"]
    assert found["ja"]["nodeDefs"] == json.loads(file_of("ja").read_text(encoding="utf-8"))
