"""Broken texts and files for what only the nodes read: ten thousand each are refused with a sentence or understood."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import fuzz
import pytest

COUNT = 10_000


def complaint(error: type[Exception], function: Callable, *args: Any, **kwargs: Any) -> str | None:
    """What this raises, if it does; other exceptions are not looked for."""
    try:
        function(*args, **kwargs)
    except error as raised:
        return str(raised)
    return None


def test_strides_of_moreg(pack):
    node, error = pack.nodes.moreg.AdaCacheMoReg, pack.adacache_core.AdaCacheError
    refused = 0
    for text in fuzz.texts("1, 2, 30", COUNT):
        said = node.validate_inputs(window="as published", strides=text)
        wrong = complaint(error, pack.nodes.moreg.parse_strides, text)
        assert said == (wrong or True)
        if wrong is None:
            assert all(1 <= stride <= 2**53 for stride in pack.nodes.moreg.parse_strides(text))
        refused += wrong is not None
    assert COUNT / 10 < refused < COUNT


def test_texts_of_the_codebook_and_schedule_nodes(pack):
    nodes, error = pack.nodes, pack.adacache_core.AdaCacheError
    schedule = '{"format": "adacache.schedule", "version": 1, "source": "x", "computed": [true, false, true]}'
    codebook = "0.08:6, 0.16:5, 1.00:1"
    for node, correct, fixed, rest in (
        (nodes.schedule.AdaCacheSchedule, schedule, {}, {}),
        (nodes.codebook.AdaCacheCodebook, codebook, {"table": "custom"}, {"for_steps": 10_000, "rate_scale": 10.0}),
    ):
        understood = 0
        for text in fuzz.texts(correct, COUNT):
            said = node.validate_inputs(text=text, **fixed)
            wrong = complaint(error, node.execute, text=text, **fixed, **rest)
            assert said == (wrong or True) or not text.strip()  # then another input may be connected
            understood += wrong is None
        assert 0 < understood < COUNT / 2


@pytest.mark.parametrize(("node", "count"), [("AdaCacheDemoPrompt", COUNT), ("AdaCacheDemoModel", 20)])
def test_files_of_the_demo_model(node, count, pack, monkeypatch):
    """Of the model a few must do: it is large, and the same code looks at both."""
    demo, prompt, dice = pack.nodes.demo.model, pack.nodes.demo.prompt, random.Random(0)
    words = {slot: choices[0] for slot, choices in prompt.WORDS.items()} | {"empty": False}
    asked = node == "AdaCacheDemoPrompt"
    execute, given = getattr(prompt if asked else demo, node).execute, words if asked else {}
    execute(**given)
    whole = (demo.ASSETS / (demo.TOKENS if given else demo.MODEL)).read_bytes()
    for number in range(count):
        begin = dice.randrange(dice.choice((8, 200, len(whole))))
        flipped = whole[:begin] + bytes([whole[begin] ^ 1 << dice.randrange(8)]) + whole[begin + 1 :]
        broken = flipped if number % 5 else whole[:begin]
        monkeypatch.setattr(demo.Path, "read_bytes", lambda path, broken=broken: broken)
        with pytest.raises(pack.adacache_core.AdaCacheError, match="install AdaCache again"):
            execute(**given)
    monkeypatch.undo()
    monkeypatch.setattr(demo, "ASSETS", demo.ASSETS / "nowhere")
    with pytest.raises(pack.adacache_core.AdaCacheError, match="install AdaCache again"):
        execute(**given)
