"""Makes `import tools` mean the folder beside `tests`, by file location, as `tests/conftest.py` does for the core."""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("tools", Path(__file__).parents[2] / "tools/__init__.py")
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
