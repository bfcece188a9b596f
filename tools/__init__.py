"""Run by people from the root of the clone (`python -m tools.demo`), imported by nothing in the pack."""
