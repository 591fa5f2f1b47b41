"""What the compose files leave to whoever reads them."""

from __future__ import annotations

import re

from support import ROOT


def test_every_variable_has_a_value_or_says_that_it_needs_one() -> None:
    """Some tools set no COMPOSE_PROJECT_NAME, which would make an image named `-airflow`."""
    files = sorted(ROOT.glob("docker-compose*.yaml"))
    assert len(files) > 1
    bare = {file.name: re.findall(r"(?<!\$)\$(\{\w+\}|\w+)", file.read_text(encoding="utf-8")) for file in files}
    assert bare == {file.name: [] for file in files}
