"""The main job: the demo workflow, plain and with AdaCache, and how far the two videos are apart.

Runs inside a real ComfyUI where there is one, else through diffusers; says which, and why.
`python -m tools.demo --help` lists the options.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adacache_core import PRESETS, TABLES, CacheConfig, Codebook, RunReport, auto, scale_rates
from tools.host import PLACES, ROOT, HostError, find_host, install, version_of
from tools.quality import Quality, compare
from tools.video import read_webp, write_webp

WORKFLOW = ROOT / "workflows" / "demo_wan_tiny.json"
LATENT_WIDTH = 16  # of the demo model's videos
PLAIN, CACHED = "without AdaCache", "with AdaCache"


@dataclass(frozen=True)
class Files:
    """What a run leaves behind."""

    plain: Path
    cached: Path
    schedule: Path
    report: Path

    @classmethod
    def under(cls, folder: Path) -> Files:
        """In this folder, which is made; what an earlier run left there is removed."""
        folder.mkdir(parents=True, exist_ok=True)
        files = cls(*(folder / name for name in ("plain.webp", "cached.webp", "schedule.png", "report.json")))
        for path in vars(files).values():
            path.unlink(missing_ok=True)
        return files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--no-comfyui", action="store_true", help="take the diffusers path even if a ComfyUI is there")
    parser.add_argument(
        "--install-comfyui", action="store_true", help="install a ComfyUI for this clone with comfy-cli"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", help="folder for what is written")
    options = parser.parse_args(arguments)
    workflow = json.loads(WORKFLOW.read_text())
    files = Files.under(options.output.absolute())
    try:
        host = None if options.no_comfyui else install() if options.install_comfyui else find_host()
        if host is not None:
            print(f"In ComfyUI {version_of(host)}, because there is one at {host}.", flush=True)
            report = in_comfyui(host, workflow, files)
        else:
            why = "--no-comfyui was given" if options.no_comfyui else f"no ComfyUI was found (looked at {PLACES})"
            print(f"Through diffusers, because {why}.", flush=True)
            report = in_diffusers(settings_of(workflow), files)
    except HostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    plain, cached = (read_webp(path, LATENT_WIDTH) for path in (files.plain, files.cached))
    print(table(report, compare(plain, cached)))
    for name, path in vars(files).items():
        print(f"{name + ':':<10}{path}")
    return 0


def in_comfyui(host: Path, workflow: dict[str, Any], files: Files) -> RunReport:
    """Posts the workflow to a server started for it and fetches what its output nodes made."""
    from comfy_cli.workflow_to_api import convert_ui_to_api

    from tools.server import serve

    print("Starting its server; the workflow follows ...", flush=True)
    with serve(host, files.report.parent / "comfyui") as server:
        prompt = convert_ui_to_api(workflow, server.object_info())
        bars: dict[str, tqdm] = {}

        def progress(node: str, done: int, total: int) -> None:
            if node not in bars:
                label = CACHED if "AdaCacheApply" in upstream(prompt, node) else PLAIN
                bars[node] = tqdm(total=total, desc=label, mininterval=1)
            bars[node].update(done - bars[node].n)
            if done == total:
                bars[node].close()

        outputs = server.run(prompt, progress)
        for node, output in outputs.items():
            kind, before = prompt[node]["class_type"], upstream(prompt, node)
            if kind == "SaveAnimatedWEBP":
                path = files.cached if "AdaCacheApply" in before else files.plain
                path.write_bytes(server.view(output["images"][0]))
            elif kind == "AdaCacheInspector":
                files.schedule.write_bytes(server.view(output["images"][0]))
            elif "AdaCacheInspector" in before and "text" in output:
                files.report.write_text(output["text"][0])
    return RunReport.from_json(files.report.read_text())


def upstream(prompt: dict[str, Any], node: str) -> set[str]:
    """Classes of all nodes that this one hangs on, in a prompt in API format."""
    links = [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
    return {prompt[link]["class_type"] for link in links}.union(*(upstream(prompt, link) for link in links))


@dataclass(frozen=True)
class Settings:
    """What the demo workflow says, as far as the diffusers path needs it."""

    prompt: tuple[str, ...]
    seed: int
    steps: int
    cfg: float
    config: CacheConfig
    preset: str
    fps: float
    scale: int


def settings_of(workflow: dict[str, Any]) -> Settings:
    """Reads the workflow's widgets, so that both paths make the same video.

    Args:
        workflow: in the frontend's format, where a node's widgets are a list in the order of its inputs.
    """
    widgets: dict[str, list[list]] = {}
    for node in workflow["nodes"]:
        widgets.setdefault(node["type"], []).append(node.get("widgets_values", []))
    assert "AdaCacheMoReg" not in widgets, "the diffusers path does not know MoReg's widgets"
    *prompt, _ = next(values for values in widgets["AdaCacheDemoPrompt"] if not values[-1])
    seed, _ = widgets["PrimitiveInt"][0]  # both samplers' seed inputs hang on it
    _, _, steps, cfg, sampler, scheduler, _ = widgets["KSampler"][0]
    assert (sampler, scheduler) == ("euler", "simple"), "the diffusers path has no other sampler"
    preset, speedup, start, end, probe_position, _ = widgets["AdaCacheApply"][0]
    config = CacheConfig(PRESETS[preset]) if preset in PRESETS else auto(speedup)
    for name, text, for_steps, rate_scale in widgets.get("AdaCacheCodebook", []):
        codebook = TABLES[name] if name in TABLES else Codebook.parse(text)
        config = CacheConfig(scale_rates(replace(codebook, steps=for_steps or codebook.steps), rate_scale))
    return Settings(
        prompt=tuple(prompt),
        seed=seed,
        steps=steps,
        cfg=cfg,
        config=replace(config, start=start, end=end, probe_position=probe_position),
        preset=preset if config.target else config.codebook.name,
        fps=widgets["SaveAnimatedWEBP"][0][1],
        scale=widgets["AdaCacheLatentPreview"][0][0],
    )


def in_diffusers(settings: Settings, files: Files) -> RunReport:
    """Samples the same model with the same settings in this process."""
    from adacache_core.picture import draw
    from tools import demo_model

    model = demo_model.load()
    run = (model, settings.prompt, settings.seed, settings.steps, settings.cfg)
    plain, _ = demo_model.sample(*run, label=PLAIN)
    cached, report = demo_model.sample(*run, config=settings.config, label=CACHED)
    report.preset = settings.preset
    write_webp(demo_model.preview(plain), files.plain, settings.fps, settings.scale)
    write_webp(demo_model.preview(cached), files.cached, settings.fps, settings.scale)
    draw([report]).save(files.schedule)
    files.report.write_text(report.to_json(indent=1))
    return report


def table(report: RunReport, quality: Quality) -> str:
    """The uncached and the cached video, a row each."""
    rows = [
        ("", "steps computed", "speed-up counted", "measured", "PSNR", "SSIM", "motion kept"),
        (PLAIN, f"{report.total} of {report.total}", "1.00x", "1.00x", "", "", "100 %"),
        (
            f"{CACHED} ({report.preset})",
            f"{report.computed} of {report.total}",
            f"{report.counted_speedup:.2f}x",
            f"{report.measured_speedup:.2f}x" if report.measured_speedup else "",
            f"{quality.psnr:.1f} dB",
            f"{quality.ssim:.4f}",
            f"{quality.motion_kept:.0%}".replace("%", " %"),
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    sys.exit(main())
