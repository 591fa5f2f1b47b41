"""The alert rules: Prometheus accepts them, each fires when it should, and the metrics they read exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from penguins.registry import Registry
from penguins.schema import EXAMPLE, TARGET
from support import ROOT

RULES = ROOT / "docs" / "prometheus-rules.yml"
TESTS = Path(__file__).with_name("prometheus_rules_test.yml")
ALERTS = set(re.findall(r"alert: (\w+)", RULES.read_text()))
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian: the package prometheus)"
)


@needs_promtool
def test_prometheus_takes_the_rules_and_each_alert_fires_where_it_should(tmp_path: Path) -> None:
    for file in (RULES, TESTS):
        shutil.copy(file, tmp_path)
    for command in (["check", "rules", RULES.name], ["test", "rules", TESTS.name]):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways_and_explained() -> None:
    well, unwell = TESTS.read_text().split("nothing is well")
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert len(ALERTS) >= 6
    for alert in ALERTS:
        assert f"alertname: {alert}, exp_alerts: []" in well
        assert f"alertname: {alert}\n" in unwell
        assert f"| `{alert}` |" in page


def test_all_that_the_rules_read_is_there_and_all_that_is_there_is_explained(
    registry: Registry, trained: Any, tmp_path: Path
) -> None:
    registry.publish(*trained)
    with TestClient(create_app(Settings(journal_url=f"sqlite:///{tmp_path}/journal.db"), registry)) as client:
        client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": "a"})
        client.post("/feedback", json={"id": "a", TARGET.name: TARGET.example}).raise_for_status()
        text = client.get("/metrics").text
    served = set(re.findall(r"^(\w+)[ {]", text, re.MULTILINE))
    read = set(re.findall(r"\bmodel_\w+", RULES.read_text()))
    assert len(read) >= 6
    assert read <= served
    page = (ROOT / "docs" / "monitoring.md").read_text()
    explained = set(re.findall(r"^\| `(model_\w+)", page, re.MULTILINE))
    assert explained == {re.sub(r"_(bucket|sum|count)$", "", name) for name in served}
