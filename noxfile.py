"""All that is run by hand or by CI, each in an environment of its own: `nox -l` lists it, README.md starts it."""

import os

import nox

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # torch's threads must not spin where several share a core
os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what this machine trusts, as pip does

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "test"]

PINNED = ["--constraint", "tools/constraints.txt"]
# comfy-cli installs hosts and reads workflows; diffusers is the way without a host.
TOOLS = ["torch", "diffusers", "kornia", "comfy-cli"]
TOOLS += ["einops", "numpy", "pillow", "safetensors", "tqdm", "uv", "websocket-client"]
# cache-dit and what else comes with diffusers is measured beside us; transformers is WanPipeline's.
BENCHMARK = [*TOOLS, "cache-dit", "matplotlib", "transformers"]


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: a video with and without AdaCache, in a ComfyUI or through diffusers (-- --help)."""
    session.install(*PINNED, *TOOLS)
    session.run("python", "-m", "tools.demo", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """All tests: ours here, those of the host in the host's own Python."""
    session.install(*PINNED, *BENCHMARK, "pytest")
    session.run("python", "-m", "tools.all_tests", *session.posargs)


@nox.session
def benchmark(session: nox.Session) -> None:
    """AdaCache beside all other caches, for docs/benchmarks.md: hours, or two minutes (-- --quick)."""
    session.install(*PINNED, *BENCHMARK)
    session.run("python", "-m", "tools.benchmark", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """What a machine with a GPU and nothing else is given (-- prepare), and what came back (-- page FOLDER)."""
    session.install("pip")
    session.run("python", "-m", "tools.gpu", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the direction of imports."""
    session.install(*PINNED, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the core."""
    session.install(*PINNED, "mypy", "torch", "einops", "numpy", "pillow", "safetensors")
    session.run("mypy")
