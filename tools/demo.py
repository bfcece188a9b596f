"""Makes the demo workflow's video without and with AdaCache, side by side, and measures how far apart they are.

Runs in a ComfyUI if there is one, else through diffusers; prints which of them, and why.
`python -m tools.demo --help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adacache_core import PRESETS, TABLES, AdaCacheError, CacheConfig, Codebook, RunReport, Target, auto
from research.demo_model import WORDS, prompt_context
from tools.host import PLACES, ROOT, HostError, find_host, install, version_of

WORKFLOW = ROOT / "workflows" / "demo_wan_tiny.json"
PLAIN, CACHED = "without AdaCache", "with AdaCache"
WARM_UP_STEPS = 2  # steps that are sampled first, so that the time of neither video includes loading the model
SPEEDUPS = (1.0, 5.0)  # range of the node

HELP = """\
counted: number of steps / number of computed steps. measured: seconds of the first video / seconds of the second. These
seconds include work outside the steps, and whatever else the machine does: measured may be above or below counted.
PSNR, SSIM, motion: how close the second video is to the first, as in AdaCache Compare."""


@dataclass(frozen=True)
class Files:
    """The files of a run."""

    video: Path
    schedule: Path
    report: Path

    @classmethod
    def under(cls, folder: Path) -> Files:
        return cls(*(folder / name for name in ("side_by_side.webp", "schedule.png", "report.json")))


@dataclass(frozen=True)
class Made:
    """The figures of a run.

    Attributes:
        report: of the run with AdaCache.
        plain_seconds, cached_seconds: of the two videos.
        psnr: of the second video against the first, dB.
        ssim, motion_kept: of the second video against the first; 1 is equal.
    """

    report: RunReport
    plain_seconds: float
    cached_seconds: float
    psnr: float
    ssim: float
    motion_kept: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo",
        description=__doc__.splitlines()[0],
        epilog=f"The table it prints:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--prompt",
        help=f"six words, one of each of: {'; '.join(map(' '.join, WORDS.values()))} (default: the workflow's)",
    )
    parser.add_argument("--seed", type=int, help="of both videos (default: what the workflow says)")
    parser.add_argument(
        "--speedup", type=float, help=f"that AdaCache aims at, {SPEEDUPS[0]:g} to {SPEEDUPS[1]:g} (default: 2)"
    )
    parser.add_argument("--no-comfyui", action="store_true", help="use diffusers even if there is a ComfyUI")
    parser.add_argument(
        "--install-comfyui", action="store_true", help="install a ComfyUI for this clone with comfy-cli"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "output" / "demo",
        help="folder for the files; replaces those of an earlier run",
    )
    options = parser.parse_args(arguments)
    try:
        workflow = wished(json.loads(WORKFLOW.read_text()), options.prompt, options.seed, options.speedup)
    except ValueError as error:
        parser.error(str(error))
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Files of an earlier run are replaced when all files of this run are complete.
        with tempfile.TemporaryDirectory(dir=folder) as work:
            files = Files.under(Path(work))
            host = None if options.no_comfyui else install() if options.install_comfyui else find_host()
            if host is not None:
                print(f"In ComfyUI {version_of(host)}, because there is one at {host}.", flush=True)
                made = in_comfyui(host, workflow, files, folder / "comfyui")
            else:
                why = "--no-comfyui was given" if options.no_comfyui else f"no ComfyUI was found (looked at {PLACES})"
                print(f"Through diffusers, because {why}.", flush=True)
                made = in_diffusers(settings_of(workflow), files)
            for name, path in vars(files).items():
                path.replace(vars(Files.under(folder))[name])
    except (HostError, AdaCacheError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{table(made)}\n\n{HELP}\n")
    for name, path in vars(Files.under(folder)).items():
        print(f"{name + ':':<10}{path}")
    return 0


def wished(workflow: dict[str, Any], prompt: str | None, seed: int | None, speedup: float | None) -> dict[str, Any]:
    """The workflow, with another prompt, seed or speed-up if one is given.

    Raises:
        ValueError: its nodes do not take this prompt or speed-up.
    """
    if speedup is not None and not SPEEDUPS[0] <= speedup <= SPEEDUPS[1]:
        raise ValueError(f"a speed-up must be from {SPEEDUPS[0]:g} to {SPEEDUPS[1]:g}, got {speedup:g}")
    if prompt is not None:
        prompt_context(prompt)  # raises
    for node in workflow["nodes"]:
        values = node.get("widgets_values", [])
        if node["type"] == "AdaCacheDemoPrompt" and not values[-1] and prompt is not None:
            values[:-1] = prompt.split()
        if node["type"] == "PrimitiveInt" and seed is not None:
            values[0] = seed
        if node["type"] == "AdaCacheApply" and speedup is not None:
            values[1] = speedup
    return workflow


def in_comfyui(host: Path, workflow: dict[str, Any], files: Files, work: Path) -> Made:
    """Starts a server, runs the workflow on it, and fetches the results of its output nodes.

    Args:
        work: folder for the files of the server.
    """
    from comfy_cli.workflow_to_api import convert_ui_to_api

    from tools.server import serve

    print("Starting its server, which takes about half a minute ...", flush=True)
    with serve(host, work) as server:
        prompt = convert_ui_to_api(workflow, server.object_info())
        (cached,) = (node for node in samplers(prompt) if "AdaCacheApply" in upstream(prompt, node))
        (plain,) = set(samplers(prompt)) - {cached}
        (inspector, report), (compared, numbers) = (shown_as_text(prompt, kind) for kind in TEXTS.items())
        print("Loading the model ...", flush=True)
        server.run(warm_up(prompt, plain), lambda *progress: None)
        seconds = Clock()
        bars: dict[str, tqdm] = {}

        def progress(node: str, done: int, total: int) -> None:
            if node not in bars:
                bars[node] = tqdm(total=total, desc=CACHED if node == cached else PLAIN, mininterval=1)
            bars[node].update(done - bars[node].n)
            if done == total:
                bars[node].close()

        outputs = server.run(prompt, progress, {"workflow": workflow}, seconds.begin)
        files.video.write_bytes(server.view(outputs[compared]["images"][0]))
        files.schedule.write_bytes(server.view(outputs[inspector]["images"][0]))
    files.report.write_text(outputs[report]["text"][0])
    found = json.loads(outputs[numbers]["text"][0])
    return Made(
        RunReport.from_json(files.report.read_text()),
        seconds.of[plain],
        seconds.of[cached],
        *(float(found[name]) for name in ("psnr", "ssim", "motion_kept")),
    )


TEXTS = {"AdaCacheInspector": 3, "AdaCacheCompare": 1}  # index of the output that is a report


def shown_as_text(prompt: dict[str, Any], kind: tuple[str, int]) -> tuple[str, str]:
    """Adds a node that shows an output of the only node of this class; returns the ids of both nodes."""
    name, output = kind
    (node,) = (node for node, each in prompt.items() if each["class_type"] == name)
    prompt[f"{name}, as text"] = {"class_type": "PreviewAny", "inputs": {"source": [node, output]}}
    return node, f"{name}, as text"


def samplers(prompt: dict[str, Any]) -> list[str]:
    return [node for node, each in prompt.items() if each["class_type"] == "KSampler"]


def warm_up(prompt: dict[str, Any], sampler: str) -> dict[str, Any]:
    """Adds a short run of this sampler, whose latent is not used."""
    short = {**prompt[sampler], "inputs": {**prompt[sampler]["inputs"], "steps": WARM_UP_STEPS}}
    needed = {sampler: short}
    while more := {link[0] for each in needed.values() for link in links(each)} - needed.keys():
        needed |= {node: prompt[node] for node in more}
    return needed | {"shown": {"class_type": "PreviewAny", "inputs": {"source": [sampler, 0]}}}


class Clock:
    """Seconds of each node: from its start to the start of the next node."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}
        self._node, self._since = "", 0.0

    def begin(self, node: str) -> None:
        now = time.perf_counter()
        if self._node:
            self.of[self._node] = now - self._since
        self._node, self._since = node, now


def links(node: dict[str, Any]) -> list[list]:
    """For an input of a node in API format: id of the source node and index of its output."""
    return [value for value in node["inputs"].values() if isinstance(value, list)]


def upstream(prompt: dict[str, Any], node: str) -> set[str]:
    """Classes of all nodes that this node depends on, in a prompt in API format."""
    sources = [link[0] for link in links(prompt[node])]
    return {prompt[source]["class_type"] for source in sources}.union(*(upstream(prompt, each) for each in sources))


@dataclass(frozen=True)
class Settings:
    """The settings of the demo workflow that the diffusers path needs."""

    prompt: tuple[str, ...]
    seed: int
    steps: int
    cfg: float
    config: CacheConfig
    preset: str
    fps: float


def settings_of(workflow: dict[str, Any]) -> Settings:
    """Reads the widgets of the workflow, so that both paths make the same video.

    Args:
        workflow: in the frontend's format, in which the widgets of a node are a list in the order of its inputs.
    """
    widgets: dict[str, list[list]] = {}
    for node in workflow["nodes"]:
        widgets.setdefault(node["type"], []).append(node.get("widgets_values", []))
    assert "AdaCacheMoReg" not in widgets, "the diffusers path does not know MoReg's widgets"
    *prompt, _ = next(values for values in widgets["AdaCacheDemoPrompt"] if not values[-1])
    seed, _ = widgets["PrimitiveInt"][0]  # both samplers take their seed from it
    _, _, steps, cfg, sampler, scheduler, _ = widgets["KSampler"][0]
    assert (sampler, scheduler) == ("euler", "simple"), "the diffusers path has no other sampler"
    preset, speedup, start, end, probe_position, *_ = widgets["AdaCacheApply"][0]
    config = CacheConfig(PRESETS[preset]) if preset in PRESETS else auto(speedup)
    for name, text, for_steps, rate_scale in widgets.get("AdaCacheCodebook", []):
        codebook = TABLES[name] if name in TABLES else Codebook.parse(text)
        config = CacheConfig(replace(codebook, steps=for_steps or codebook.steps).with_rates_times(rate_scale))
    return Settings(
        prompt=tuple(prompt),
        seed=seed,
        steps=steps,
        cfg=cfg,
        config=replace(config, start=start, end=end, probe_position=probe_position),
        preset=f"{preset} {speedup:g}x" if isinstance(config.policy, Target) else config.policy.name,
        fps=widgets["AdaCacheCompare"][0][1],
    )


def in_diffusers(settings: Settings, files: Files) -> Made:
    """Samples the same model with the same settings in this process."""
    from adacache_core.tell.picture import beside, draw
    from research import clips, demo_model
    from research.quality import compare
    from tools.video import frames_of, write_webp

    print("Loading the model ...", flush=True)
    model = demo_model.load()
    run = (model, settings.prompt, settings.seed)
    demo_model.sample(*run, WARM_UP_STEPS, settings.cfg)
    videos, seconds = [], []
    for label, config in ((PLAIN, None), (CACHED, settings.config)):
        begin = time.perf_counter()
        latent, report = demo_model.sample(*run, settings.steps, settings.cfg, config=config, label=label)
        seconds.append(time.perf_counter() - begin)
        videos.append(clips.pictures(latent))
    report.preset = settings.preset
    quality = compare(*videos)
    shown = beside([frames_of(video) for video in videos], report, f"{quality.psnr:.1f} dB PSNR")
    write_webp(shown, files.video, settings.fps)
    draw([report]).save(files.schedule)
    files.report.write_text(report.to_json(indent=1))
    return Made(report, *seconds, quality.psnr, quality.ssim, quality.motion_kept)


def table(made: Made) -> str:
    """The uncached and the cached video, a row each."""
    report = made.report
    rows = [
        ("", "steps computed", "seconds", "counted", "measured", "PSNR", "SSIM", "motion kept"),
        (PLAIN, f"{report.total} of {report.total}", f"{made.plain_seconds:.1f}", "1.00x", "1.00x", "", "", "100 %"),
        (
            f"{CACHED} ({report.preset})",
            f"{report.computed} of {report.total}",
            f"{made.cached_seconds:.1f}",
            f"{report.counted_speedup:.2f}x",
            f"{made.plain_seconds / made.cached_seconds:.2f}x",
            f"{made.psnr:.1f} dB",
            f"{made.ssim:.4f}",
            f"{made.motion_kept:.0%}".replace("%", " %"),
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped in this case, too
    sys.exit(main())
