"""The translations in `locales`: whole, of this pack's nodes only, and with the numbers and words that users must find.

There is no `en`: what the frontend finds no translation for it shows as the schema has it, and that is English.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

LOCALES = Path(__file__).parents[2] / "locales"
LANGUAGES = ["de", "es", "fr", "ja", "ko", "pt-BR", "ru", "zh", "zh-TW"]  # of these the frontend has all but de so far
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(params=LANGUAGES)
def translated(request) -> dict:
    return json.loads((LOCALES / request.param / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.fixture
def english(schemas) -> dict:
    """The schemas in the form of a `nodeDefs.json`."""
    return {node: _in_words(schema) for node, schema in schemas.items()}


def _in_words(schema) -> dict:
    inputs = {each.id: {"name": each.display_name or each.id, "tooltip": each.tooltip} for each in schema.inputs}
    outputs = {str(index): {"name": each.display_name} for index, each in enumerate(schema.outputs)}
    words = {"display_name": schema.display_name, "description": schema.description}
    return words | ({"inputs": inputs} if inputs else {}) | {"outputs": outputs}


def _texts(words: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text with where it stands."""
    for key, value in words.items():
        yield from _texts(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]


def test_every_language_has_every_text_of_the_nodes_and_no_other(translated, english):
    assert {where for where, _ in _texts(translated)} == {where for where, _ in _texts(english)}
    assert all(text.strip() for _, text in _texts(translated))


def test_sentences_are_translated(translated, english):
    said = dict(_texts(english))
    sentences = [where for where in said if where[-1] in ("description", "tooltip")]
    assert not [where for where in sentences if dict(_texts(translated))[where] == said[where]]


def test_numbers_to_start_from_are_those_of_the_english_text(translated, english):
    said = dict(_texts(english))
    for where, text in _texts(translated):
        assert set(NUMBER.findall(said[where])) <= set(NUMBER.findall(text)), (where, text)


def test_options_are_called_as_the_menu_shows_them(translated, schemas):
    for node, schema in schemas.items():
        for each in schema.inputs:
            text = translated[node]["inputs"][each.id]["tooltip"]
            for option in getattr(each, "options", None) or []:
                if re.search(rf"\b{re.escape(option)}\b", each.tooltip, re.IGNORECASE):
                    assert option in text, (node, each.id, option)


def test_no_text_has_what_the_frontend_would_take_for_its_message_syntax(translated):
    assert not [text for _, text in _texts(translated) if re.search(r"[{}@|]", text)]


def test_two_nodes_or_two_inputs_of_a_node_do_not_share_a_name(translated):
    names = [node["display_name"] for node in translated.values()]
    assert len(names) == len(set(names))
    for node in translated.values():
        for kind in ("inputs", "outputs"):
            names = [each["name"] for each in node.get(kind, {}).values()]
            assert len(names) == len(set(names)), names


def test_the_host_finds_all_languages(host, monkeypatch, tmp_path):
    import folder_paths

    manager = pytest.importorskip("app.custom_node_manager")
    shutil.copytree(LOCALES, tmp_path / "adacache" / "locales")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path)])
    found = manager.CustomNodeManager().build_translations()
    assert sorted(found) == LANGUAGES
    assert found["ja"]["nodeDefs"] == json.loads((LOCALES / "ja" / "nodeDefs.json").read_text(encoding="utf-8"))
