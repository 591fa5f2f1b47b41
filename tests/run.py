"""All tests that need no Docker: `make test`, in a fork as well.

Most are about penguins. Where `schema.py` declares another table, they run in a copy of the project in which it
declares the penguins, and what it declares is tested here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT, clone_project, declaration, declare

PENGUINS = Path(__file__).with_name("penguins_declaration.txt")
OF_ANY_TABLE = "tests/integration/test_declared.py"


def main(arguments: Sequence[str]) -> int:
    """Run the tests with pytest's arguments. Return 0 if all pass."""
    penguins = PENGUINS.read_text(encoding="utf-8").strip()
    if (declared := declaration(ROOT)) == penguins:
        return _pytest(ROOT, arguments)
    if 'CSV_NAME = "penguins_size.csv"\n' in declared:
        print(f"schema.py declares the penguins in another way than {PENGUINS.name}: change that as well")
        return 1
    print("schema.py declares a table of your own: first it, then in a copy what is tested with penguins", flush=True)
    failed = _pytest(ROOT, [OF_ANY_TABLE])
    with TemporaryDirectory(prefix="penguins-") as folder:
        copy = Path(folder)
        clone_project(copy)
        declare(copy, penguins)
        return _pytest(copy, arguments) or failed


def _pytest(root: Path, arguments: Sequence[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=root, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
