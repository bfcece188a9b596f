"""Calibration in the graph: watched runs, the codebook they give, and the file that the codebook node lists."""

from __future__ import annotations

import pytest
import torch
from host.running import sample

WAN = "Wan t2v"
STEPS = 16


@pytest.fixture
def nodes(pack, tmp_path, monkeypatch):
    """The pack's nodes; models and pictures lie in a folder of the test's own."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    before = folder_paths.get_temp_directory()
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    yield pack.nodes
    folder_paths.set_temp_directory(before)


@pytest.fixture(scope="module")
def watched(pack, tiny):
    """A MODEL whose AdaCache node is set to watch, after three runs, and the last latent."""
    wan = tiny(WAN)
    model = pack.nodes.apply.AdaCacheApply.execute(wan.model, "watch", 2.0, 0.0, 1.0, 0.5, "main").args[0]
    for seed in (1, 2, 3):
        noise = torch.randn(wan.latent.shape, generator=torch.manual_seed(seed))
        latent = sample(wan, model, steps=STEPS, noise=noise)
    return model, {"samples": latent}


@pytest.fixture
def calibrate(nodes):
    def execute(watched, speedup=1.5, entries=4, runs=16, name="mine", save="do not save"):
        return nodes.calibrate.AdaCacheCalibrate.execute(*watched, speedup, entries, runs, name, save).args

    return execute


def options(nodes):
    (table,) = [each for each in nodes.codebook.AdaCacheCodebook.define_schema().inputs if each.id == "table"]
    return table.options


def test_watching_changes_nothing(watched, tiny):
    noise = torch.randn(tiny(WAN).latent.shape, generator=torch.manual_seed(3))
    assert torch.equal(watched[1]["samples"], sample(tiny(WAN), steps=STEPS, noise=noise))


def test_a_codebook_made_of_watched_runs_reaches_its_speedup(watched, calibrate, nodes, tiny):
    codebook, picture, text = calibrate(watched)
    assert str(codebook) == text
    assert (codebook.steps, codebook.name, len(codebook.entries)) == (STEPS, "mine", 4)
    assert picture.ndim == 4
    arguments = (tiny(WAN).model, "auto", 2.0, 0.0, 1.0, 0.5, "main")
    model = nodes.apply.AdaCacheApply.execute(*arguments, codebook=codebook).args[0]
    sample(tiny(WAN), model, steps=STEPS)
    report = nodes.host.attach.attachment_of(model).finished[-1].report
    assert report.counted_speedup == pytest.approx(1.5, rel=0.2)


def test_only_the_last_runs_count(watched, calibrate):
    all_runs, last = (calibrate(watched, runs=runs)[0] for runs in (16, 1))
    assert all_runs.entries != last.entries


def test_runs_of_an_earlier_number_of_steps_do_not_count(pack, tiny, calibrate):
    model = pack.nodes.apply.AdaCacheApply.execute(tiny(WAN).model, "watch", 2.0, 0.0, 1.0, 0.5, "main").args[0]
    for steps in (STEPS - 4, STEPS):
        latent = {"samples": sample(tiny(WAN), model, steps=steps)}
    both, last = (calibrate((model, latent), runs=runs)[0] for runs in (16, 1))
    assert both == last


def test_without_watched_runs_it_says_what_to_do(nodes, calibrate, tiny, pack):
    model = nodes.apply.AdaCacheApply.execute(tiny(WAN).model, "fast", 2.0, 0.0, 1.0, 0.5, "main").args[0]
    for unwatched in (model, tiny(WAN).model):
        with pytest.raises(pack.adacache_core.AdaCacheError, match="preset of the AdaCache node to watch"):
            calibrate((unwatched, {}))


def test_a_saved_codebook_is_listed_and_used(watched, calibrate, nodes):
    assert "mine" not in options(nodes)
    codebook, *_ = calibrate(watched, save="save")
    assert "mine" in options(nodes)
    assert nodes.codebook.AdaCacheCodebook.execute("mine", "", 0, 1.0).args[0] == codebook


def test_nothing_is_replaced_without_being_asked(watched, calibrate, nodes, pack, tmp_path):
    first, *_ = calibrate(watched, save="save")
    with pytest.raises(pack.adacache_core.AdaCacheError, match="already exists"):
        calibrate(watched, entries=2, save="save")
    assert nodes.host.library.codebooks() == {"mine": first}
    second, *_ = calibrate(watched, entries=2, save="save, replacing the file")
    assert nodes.host.library.codebooks() == {"mine": second}
    assert [path.name for path in (tmp_path / "adacache").iterdir()] == ["mine.json"]


ELSEWHERE = ["", "../up", "a/b", "a\\b", ".hidden", "/etc/x", "a\0b", "x" * 200, "dot.", "C:x", "end\n", "two\nlines"]
ELSEWHERE += ["x:stream", "NUL", "con", "Aux.old", "com1", "LPT9 .x", "com²", " first", "last ", "~", "%TEMP%", "$HOME"]
ELSEWHERE += ["é" * 60, "a\u202egnp", "\u2044etc", "a\u2215b", "\uff0e\uff0e\uff0fup", "zero\u200bwidth", "\ud800"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_leads_elsewhere_is_refused(name, watched, calibrate, pack, tmp_path):
    with pytest.raises(pack.adacache_core.AdaCacheError, match="not a valid name for a codebook"):
        calibrate(watched, name=name, save="save")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", ["nullify", "com10", "icon", "Größe 2.1", "中文 表", "é" * 50, "-v", "a..b"])
def test_a_name_that_is_one_is_taken(name, watched, calibrate, tmp_path):
    calibrate(watched, name=name, save="save")
    assert [path.name for path in (tmp_path / "adacache").iterdir()] == [f"{name}.json"]


def test_a_link_that_lies_there_is_not_followed(watched, calibrate, pack, tmp_path):
    folder, outside = tmp_path / "adacache", tmp_path / "outside.json"
    folder.mkdir()
    outside.write_text("not ours")
    for name, target in (("full", outside), ("empty", tmp_path / "nowhere.json")):
        (folder / f"{name}.json").symlink_to(target)
        with pytest.raises(pack.adacache_core.AdaCacheError, match="already exists"):
            calibrate(watched, name=name, save="save")
        calibrate(watched, name=name, save="save, replacing the file")
        assert not (folder / f"{name}.json").is_symlink()
    assert outside.read_text() == "not ours"
    assert not (tmp_path / "nowhere.json").exists()


def test_a_broken_file_is_named_once_and_left_out(watched, calibrate, nodes, pack, tmp_path, caplog):
    calibrate(watched, save="save")
    (tmp_path / "adacache" / "broken.json").write_text("{")
    (tmp_path / "adacache" / "odd.json").write_bytes(b"\xff\xfe")
    with caplog.at_level("WARNING"):
        for _ in range(3):
            assert "mine" in options(nodes)
            assert not {"broken", "odd"} & set(options(nodes))
    assert caplog.text.count("broken.json is left out") == caplog.text.count("odd.json is left out") == 1
    with pytest.raises(pack.adacache_core.AdaCacheError, match="there is no codebook 'broken'"):
        nodes.codebook.AdaCacheCodebook.execute("broken", "", 0, 1.0)
