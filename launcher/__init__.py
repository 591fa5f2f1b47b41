"""Run the whole project without Docker. `make run` runs `__main__.py`: start reading there."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "plugins"))  # penguins is not installed: an edit takes effect at the next start
