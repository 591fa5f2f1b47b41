"""`make check`: a file is held against the declaration, without Airflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support import ROOT

CSV = ROOT / "dags" / "penguins_size.csv"


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where no module of Airflow can be imported."""
    code = (
        "import sys; sys.modules['airflow'] = None; from penguins.data.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT / "plugins"), "PATH": ""},
    )


def test_the_declared_file_fits_and_is_counted() -> None:
    for arguments in ([], [""], [str(CSV)]):  # make hands on an empty CSV
        done = check(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "344 rows fit the declaration. Adelie 151, Chinstrap 68, Gentoo 123" in done.stdout


def test_what_does_not_fit_is_said_by_column_and_value(tmp_path: Path) -> None:
    path = tmp_path / "next week.csv"
    path.write_text(CSV.read_text().replace("Biscoe", "biscoe").replace("39.1,", "thirty,", 1))
    done = check(str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("make check: ")
    biscoe = "column island: 'biscoe'; the rule is one of Biscoe, Dream, Torgersen (in 168 rows)"
    assert biscoe in done.stderr
    assert "line 2, column culmen_length_mm: 'thirty'" in done.stderr


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = check(str(tmp_path / "none.csv"))
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
