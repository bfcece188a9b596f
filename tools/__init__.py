"""Programs that people run from the root of the clone (`python -m tools.demo`). The pack imports none of them."""
