"""All that is run by hand or by CI, each in an environment of its own: `nox -l` lists it, README.md starts it."""

import os

import nox

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # torch's threads must not spin where several share a core
os.environ.setdefault("UV_SYSTEM_CERTS", "1")  # trust what this machine trusts, as pip does

nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "test"]

TORCH = "torch==2.11.0"
# What the tools need. comfy-cli installs hosts and reads workflows; diffusers is the host-less path.
TOOLS = [TORCH, "diffusers==0.42.1", "kornia==0.9.0", "comfy-cli==1.23.0"]
TOOLS += ["einops", "numpy", "pillow", "safetensors", "tqdm", "uv", "websocket-client"]
PYTEST = "pytest==9.2.0"
RUFF = "ruff==0.17.5"
MYPY = "mypy==2.4.1"


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: a video with and without AdaCache, in a ComfyUI or through diffusers (-- --help)."""
    session.install(*TOOLS)
    session.run("python", "-m", "tools.demo", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """All tests: ours here, those of the host in the host's own Python."""
    session.install(*TOOLS, PYTEST)
    session.run("pytest", "tests", "--ignore=tests/host", "-rs", *session.posargs)
    session.run("python", "-m", "tools.host_tests", PYTEST)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and the direction of imports."""
    session.install(RUFF)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the core."""
    session.install(MYPY, TORCH, "einops", "numpy", "pillow", "safetensors")
    session.run("mypy")
