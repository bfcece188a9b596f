"""Makes `adacache_core`, `tools` and `research` mean the folders beside `tests`, wherever the repository lies.

By file location and not through `sys.path`: on the path, our `nodes` would shadow the host's `nodes.py`.
"""

import importlib.util
import sys
from pathlib import Path

for package in ("adacache_core", "tools", "research"):
    spec = importlib.util.spec_from_file_location(package, Path(__file__).parents[1] / package / "__init__.py")
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])
