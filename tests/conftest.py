"""Makes `import adacache_core` mean the folder beside `tests`, wherever the repository lies and whatever it is called.

By file location and not through `sys.path`: on the path, our `nodes` would shadow the host's `nodes.py`.
"""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("adacache_core", Path(__file__).parents[1] / "adacache_core/__init__.py")
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
