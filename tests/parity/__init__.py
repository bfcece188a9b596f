"""Does the core do what the published code does? `replay.py` asks, the recorded traces in `golden` answer."""
