"""The pre-commit configuration runs `make lint`, whatever a commit changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGURATION = Path(__file__).parents[2] / ".pre-commit-config.yaml"


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_commit_goes_through_if_make_lint_does(tmp_path: Path, exit_code: int) -> None:
    (tmp_path / CONFIGURATION.name).write_text(CONFIGURATION.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "Makefile").write_text(f"lint:\n\t@echo linted in $(CURDIR); exit {exit_code}\n")
    (tmp_path / "README.md").write_text("No Python in this commit.\n")

    # Not those of a hook that these tests may be run by.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env["PRE_COMMIT_HOME"] = str(tmp_path / "cache")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )

    run("git", "init", "--quiet")
    run("git", "config", "user.email", "nobody@example.invalid")
    run("git", "config", "user.name", "Nobody")
    run("git", "add", "README.md", "Makefile", CONFIGURATION.name)
    installed = run(sys.executable, "-m", "pre_commit", "install")
    assert installed.returncode == 0, installed.stdout
    committed = run("git", "commit", "--message", "text")
    assert (committed.returncode == 0) == (exit_code == 0), committed.stdout
    if exit_code:
        assert f"linted in {tmp_path}" in committed.stdout
    assert (run("git", "rev-parse", "HEAD").returncode == 0) == (exit_code == 0)
