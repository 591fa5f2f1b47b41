"""Run the whole project without Docker. `make run` runs `__main__.py`, which reads from top to bottom."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins"))  # penguins is not installed, so that an edit is the next start's
