"""ComfyUI-AdaCache. The host looks here for `comfy_entrypoint`; without a host this does nothing."""

from importlib.util import find_spec

WEB_DIRECTORY = "./web"

# No except: an error of our own must reach the host's log, not vanish.
if find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
