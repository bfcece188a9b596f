"""The README's two commands: what they say, where they find a host, and the main job without and with one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from e2e.shipped import with_steps
from PIL import Image, ImageSequence

from adacache_core import RunReport, auto
from adacache_core.engine import FEW_STEPS
from research import demo_model, quality
from research.benchmark.host_caches import evenly
from tools import demo, host, host_tests

ROOT = Path(__file__).parents[2]


def quick_start() -> list[str]:
    section = re.search(r"^## Quick start\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    (block,) = re.findall(r"^```\w*\n(.*?)^```", section, re.M | re.S)
    return block.splitlines()


def test_the_quick_start_is_one_block_of_two_lines_that_differ_in_the_session():
    demo_line, test_line = quick_start()
    assert demo_line.endswith("nox -s demo")
    assert test_line == demo_line.removesuffix("demo") + "test"


def test_ci_runs_the_test_line_of_the_readme():
    assignment = re.search(r"^test_line=.*$", (ROOT / ".ci/run").read_text(), re.M)[0]
    command = [shutil.which("bash"), "-c", f'{assignment}; echo "$test_line"']
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == quick_start()[1]


# Where a host is


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without any ComfyUI."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(host, "ROOT", tmp_path / "clone")
    monkeypatch.setattr(host, "INSTALLED", tmp_path / "clone" / ".nox" / "ComfyUI")
    return tmp_path


def make_host(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('# made by hand\n__version__ = "1.2.3"\n')
    return folder


def make_python(venv: Path) -> Path:
    python = venv / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    return python


def test_no_host_is_found_where_there_is_none(nowhere):
    assert host.find_host() is None


def test_hosts_are_found_in_this_order(nowhere, monkeypatch):
    installed = make_host(host.INSTALLED)
    assert host.find_host() is None, "an installation that stopped half-way is none"
    (installed.parent / host.COMPLETE).touch()
    assert host.find_host() == installed
    at_home = make_host(nowhere / "home/comfy/ComfyUI")
    assert host.find_host() == at_home
    around = make_host(nowhere / "around")
    monkeypatch.setattr(host, "ROOT", around / "custom_nodes" / "any name")
    assert host.find_host() == around
    named = make_host(nowhere / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert host.find_host() == named
    assert host.version_of(named) == "1.2.3"


def test_a_named_host_that_is_none_is_an_error_even_if_there_is_another(nowhere, monkeypatch, capsys):
    make_host(nowhere / "home/comfy/ComfyUI")
    monkeypatch.setenv("COMFYUI_PATH", str(nowhere / "elsewhere"))
    with pytest.raises(host.HostError, match=r"COMFYUI_PATH=.*elsewhere"):
        host.find_host()
    assert demo.main(["--output", str(nowhere / "output")]) == 1
    assert "COMFYUI_PATH" in capsys.readouterr().err


def test_the_python_of_a_host_is_found_in_this_order(nowhere, monkeypatch):
    folder = make_host(nowhere / "anywhere" / "ComfyUI")
    with pytest.raises(host.HostError, match="set COMFYUI_PYTHON"):
        host.find_python(folder)
    for venv in (nowhere / "home/comfy/venv", folder.parent / "venv", folder / ".venv", folder / "venv"):
        python = make_python(venv)
        assert host.find_python(folder) == python
    named = make_python(nowhere / "named")
    monkeypatch.setenv("COMFYUI_PYTHON", str(named))
    assert host.find_python(folder) == named
    monkeypatch.setenv("COMFYUI_PYTHON", str(nowhere / "missing"))
    with pytest.raises(host.HostError, match="COMFYUI_PYTHON"):
        host.find_python(folder)


# Counting host tests


def test_without_a_host_its_tests_are_said_not_to_have_run(nowhere, capsys):
    assert host_tests.main() == 0
    assert "not run and not counted as passed" in capsys.readouterr().out


def test_a_host_in_which_no_test_ran_is_a_failure(nowhere, monkeypatch, capsys):
    folder = make_host(nowhere / "named")
    make_python(folder / "venv")  # a Python that ends at once, and well
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    monkeypatch.setattr(host_tests, "_bring_pytest", lambda python: None)
    monkeypatch.setattr(host_tests, "RESULTS", nowhere / "results.xml")
    assert host_tests.main() == 1
    assert "0 ran, 0 failed, 0 skipped on ComfyUI 1.2.3" in capsys.readouterr().out


def test_a_skipped_test_is_not_counted_as_run(tmp_path):
    results = tmp_path / "results.xml"
    results.write_text('<testsuites><testsuite tests="7" failures="1" errors="2" skipped="3"/></testsuites>')
    assert host_tests.count(results) == (4, 3, 3)


# Quality


def still(*levels: float) -> torch.Tensor:
    """Frames of 16 x 16, each of one grey."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 16, 16, 3)


def test_psnr_is_the_mean_over_frames_and_an_equal_frame_counts_a_hundred():
    assert quality.compare(still(0.5, 0.5), still(0.6, 0.4)).psnr == pytest.approx(20, abs=1e-4)
    assert quality.compare(still(0.5, 0.5), still(0.6, 0.5)).psnr == pytest.approx((20 + 100) / 2, abs=1e-4)


def test_ssim_of_flat_frames_is_the_luminance_term():
    flat = (2 * 0.5 * 0.6 + 0.01**2) / (0.5**2 + 0.6**2 + 0.01**2)
    assert quality.compare(still(0.5, 0.5), still(0.6, 0.6)).ssim == pytest.approx(flat, abs=1e-6)


def test_ssim_falls_where_structure_turns_round():
    checker = (
        (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).float().view(1, 16, 16, 1).expand(2, -1, -1, 3)
    )
    assert quality.compare(checker, checker).ssim == pytest.approx(1)
    assert quality.compare(checker, 1 - checker).ssim < -0.9


def test_motion_kept_is_the_ratio_of_frame_differences():
    assert quality.compare(still(0.0, 0.2, 0.4), still(0.0, 0.1, 0.0)).motion_kept == pytest.approx(0.5)
    assert quality.compare(still(0.5, 0.5), still(0.5, 0.5)).motion_kept == 1


def test_the_worst_frame_is_the_psnr_of_the_one_that_is_furthest_off():
    found = quality.compare(still(0.5, 0.5, 0.5), still(0.51, 0.6, 0.5))
    assert found.worst_frame == pytest.approx(20, abs=1e-4)
    assert quality.compare(still(0.5, 0.5), still(0.5, 0.5)).worst_frame == 100


def test_the_benchmarks_cap_holds_for_each_frame_before_the_mean():
    found = quality.compare(still(0.5, 0.5, 0.5), still(0.6, 0.501, 0.5), quality.PSNR_SEEN)
    assert (found.psnr, found.worst_frame) == (pytest.approx((20 + 50 + 50) / 3, abs=1e-4), pytest.approx(20, abs=1e-4))


def test_a_video_that_ran_away_has_figures_as_a_black_one_has():
    lost = quality.compare(still(0.5, 0.2), still(torch.nan, torch.inf))
    assert lost == quality.compare(still(0.5, 0.2), still(0, 0))
    assert quality.closeness(still(0.5), still(torch.nan)) == 0


def test_closeness_is_the_latent_over_its_error_and_at_most_a_hundred():
    latent = 3 * torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    assert quality.closeness(latent, 1.1 * latent) == pytest.approx(20, abs=1e-4)
    assert quality.closeness(latent, latent) == quality.closeness(latent, (1 + 1e-7) * latent.double()) == 100
    assert quality.closeness(0 * latent, 0 * latent) == 100
    with pytest.raises(ValueError, match="cannot be compared"):
        quality.closeness(latent, latent[:, :8])


def test_st_lpips_is_what_its_package_says(capfd):
    dice = torch.Generator().manual_seed(0)  # of what stlpips_pytorch 0.0.2 was run on, where all it imports was there
    plain = torch.rand(1, 128, 128, 3, generator=dice)
    cached = (plain + 0.1 * torch.randn(1, 128, 128, 3, generator=dice)).clamp(0, 1)
    assert quality.lpips(plain, cached) == pytest.approx(0.002943055, rel=1e-4)
    assert quality.lpips(plain, plain) == 0
    assert capfd.readouterr() == ("", "")


def test_small_videos_are_enlarged_bicubically_for_st_lpips():
    small = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small, (128, 128), mode="bicubic").clamp(0, 1)
    expected = quality.lpips(*(video.movedim(1, -1) for video in large[:, None]))
    assert quality.lpips(*(video.movedim(1, -1) for video in small[:, None])) == pytest.approx(expected, rel=1e-4)


def test_st_lpips_is_the_mean_over_every_fourth_frame():
    plain = torch.rand(8, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    elsewhere, first, both = plain.clone(), plain.clone(), plain.clone()
    elsewhere[[1, 2, 3, 5, 6, 7]] = 0
    first[0], both[[0, 4]] = plain[4], plain[[4, 0]]
    assert quality.lpips(plain, elsewhere) == 0
    assert 0 < quality.lpips(plain, first) == pytest.approx(quality.lpips(plain, both) / 2, rel=1e-4)
    assert quality.lpips(first, plain) == pytest.approx(quality.lpips(plain, first), rel=1e-4)


def test_the_weights_of_st_lpips_may_lie_elsewhere(monkeypatch):
    assert quality.lpips_weights().stat().st_size > 9e6
    monkeypatch.setenv(quality.LPIPS_WEIGHTS, "/weights.pth")
    assert quality.lpips_weights() == Path("/weights.pth")
    monkeypatch.delenv(quality.LPIPS_WEIGHTS)
    monkeypatch.setattr(quality, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="stlpips-pytorch"):
        quality.lpips_weights()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        quality.compare(still(0.1, 0.2), still(0.1))
    with pytest.raises(ValueError, match="smaller than SSIM's window"):
        quality.compare(still(0.1, 0.2)[:, :8], still(0.1, 0.2)[:, :8])


# The model without a host


def test_noise_levels_are_the_hosts_simple_scheduler_at_shift_8():
    levels = demo_model.sigmas(30)
    assert len(levels) == 31
    # Of the table's 1000 levels every 33.3th, rounded down: 1000, 967, ..., 34; then none.
    expected = {0: 1.0, 1: 8 * 0.967 / (1 + 7 * 0.967), 29: 8 * 0.034 / (1 + 7 * 0.034), 30: 0.0}
    for step, level in expected.items():
        assert levels[step].item() == pytest.approx(level, rel=1e-6, abs=0)


def test_a_prompt_the_model_does_not_know_is_refused_with_the_words_it_knows():
    with pytest.raises(ValueError, match=r"circle square triangle.*Got: circle one red"):
        demo_model.prompt_context("circle one red")


@pytest.fixture(scope="module")
def model():
    return demo_model.load("cpu")


RUN = {"prompt": "square one blue slow right light", "seed": 5, "steps": FEW_STEPS, "cfg": 4.0}


def test_a_fixed_schedule_computes_the_steps_it_is_given(model):
    _, report = demo_model.sample(model, **RUN, schedule=[0, 3, 7])
    assert [step for step, computed in enumerate(report.schedule().computed) if computed] == [0, 3, 7]


def test_a_fixed_schedule_of_all_steps_changes_nothing(model):
    plain, none = demo_model.sample(model, **RUN)
    watched, report = demo_model.sample(model, **RUN, schedule=range(FEW_STEPS))
    assert none is None
    assert report.computed == FEW_STEPS
    assert torch.equal(plain, watched)


def test_with_a_target_the_video_is_nearer_than_with_as_many_steps_evenly_held(model):
    """What preset auto is for; on every class and against everybody: research.benchmark."""
    run = RUN | {"steps": 16}
    plain, _ = demo_model.sample(model, **run)
    cached, report = demo_model.sample(model, **run, config=auto(2.0))
    held, _ = demo_model.sample(model, **run, schedule=evenly(report.computed, 16))
    assert 6 <= report.computed <= 10
    assert any(record.corrected for record in report.evaluations)
    assert (cached - plain).norm() < 0.5 * (held - plain).norm()


def test_a_target_of_one_changes_nothing(model):
    plain, _ = demo_model.sample(model, **RUN)
    cached, report = demo_model.sample(model, **RUN, config=auto(1.0))
    assert torch.equal(plain, cached)
    assert report.cache_bytes_max == 0


# The main job


@pytest.fixture
def short_workflow(tmp_path, monkeypatch):
    """The shipped workflow at few steps."""
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(with_steps(json.loads(demo.WORKFLOW.read_text()), FEW_STEPS)))
    monkeypatch.setattr(demo, "WORKFLOW", path)


def frames_in(clip: Path) -> torch.Tensor:
    """The two halves of the demo's video: (2, frames, height, width, 3) in [0, 1]."""
    with Image.open(clip) as opened:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened)]
    video = torch.from_numpy(np.stack(frames)).float() / 255
    half = video.shape[2] // 2
    return torch.stack([video[:, :, :half], video[:, :, half : 2 * half]])


def check_outputs(folder: Path, printed: str) -> RunReport:
    plain, cached = frames_in(folder / "side_by_side.webp")
    assert len(plain) == 16
    assert not torch.equal(plain, cached)
    with Image.open(folder / "schedule.png") as picture:
        assert picture.width >= 500
    report = RunReport.from_json((folder / "report.json").read_text())
    assert report.total == FEW_STEPS
    assert 0 < report.computed < FEW_STEPS
    assert report.target == 2.0
    row = next(line for line in printed.splitlines() if line.strip().startswith(f"{demo.CACHED} (auto 2x)"))
    assert f"{report.computed} of {FEW_STEPS}" in row
    assert f"{report.counted_speedup:.2f}x" in row
    assert re.search(r"\d dB +0\.\d{4} +\d+ %", row)
    for path in folder.glob("*.*"):
        assert str(path) in printed
    return report


def test_the_main_job_without_a_host_writes_the_video_the_picture_and_a_table(short_workflow, nowhere, capsys):
    folder = nowhere / "output"
    assert demo.main(["--output", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Through diffusers, because no ComfyUI was found")
    check_outputs(folder, printed)


def test_a_run_that_fails_leaves_the_files_of_the_last_one_and_nothing_else(nowhere, monkeypatch, capsys):
    folder = nowhere / "output"
    folder.mkdir()
    of_the_last = vars(demo.Files.under(folder)).values()
    for path in of_the_last:
        path.write_text("of the last run")
    monkeypatch.setenv("COMFYUI_PATH", str(nowhere / "elsewhere"))
    assert demo.main(["--output", str(folder)]) == 1
    assert "COMFYUI_PATH" in capsys.readouterr().err
    assert set(folder.iterdir()) == set(of_the_last)
    assert {path.read_text() for path in folder.iterdir()} == {"of the last run"}


def test_prompt_seed_and_speedup_go_into_the_workflow_and_nothing_else_changes():
    shipped = json.loads(demo.WORKFLOW.read_text())
    before = demo.settings_of(shipped)
    prompt = "triangle one green fast left checker"
    after = demo.settings_of(demo.wished(json.loads(demo.WORKFLOW.read_text()), prompt, 77, 3.0))
    assert (after.prompt, after.seed, after.config.policy.speedup) == (tuple(prompt.split()), 77, 3.0)
    assert after.preset == "auto 3x"
    wished = {name: getattr(before, name) for name in ("prompt", "seed", "config", "preset")}
    assert replace(after, **wished) == before
    assert demo.wished(json.loads(demo.WORKFLOW.read_text()), None, None, None) == shipped


@pytest.mark.parametrize(
    ("option", "said"), [(["--prompt", "a red fox"], "circle square triangle"), (["--speedup", "9"], "from 1 to 5")]
)
def test_what_the_demo_cannot_be_asked_for_is_refused_with_what_it_can(option, said, nowhere, capsys):
    with pytest.raises(SystemExit):
        demo.main([*option, "--output", str(nowhere / "output")])
    assert said in capsys.readouterr().err
    assert not (nowhere / "output").exists()


def test_the_main_job_in_the_real_host_makes_the_same_videos(comfyui, short_workflow, tmp_path, capsys):
    there, here = tmp_path / "comfyui", tmp_path / "diffusers"
    assert demo.main(["--output", str(there)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"In ComfyUI {host.version_of(comfyui)}")
    report = check_outputs(there, printed)
    assert demo.main(["--no-comfyui", "--output", str(here)]) == 0
    assert check_outputs(here, capsys.readouterr().out).schedule().computed == report.schedule().computed
    for one, other in zip(*(frames_in(folder / "side_by_side.webp") for folder in (there, here)), strict=True):
        assert quality.compare(one, other).psnr > 40  # both are read from lossy clips
