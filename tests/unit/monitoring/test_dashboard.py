"""The dashboard's panels are whole, and its queries count right over time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import ROOT, dashboard_queries

DASHBOARD = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SOURCES = yaml.safe_load((ROOT / "monitoring" / "grafana" / "datasources.yaml").read_text())["datasources"]


def test_no_panel_is_empty_hidden_or_without_its_legend_and_all_ask_the_source_that_is_provisioned() -> None:
    [source] = SOURCES
    for panel in [*PANELS, *DASHBOARD["annotations"]["list"]]:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    places = set()
    for panel in PANELS:
        assert panel["targets"]
        assert panel["options"]["legend"]["showLegend"]
        x, y, w = (panel["gridPos"][side] for side in "xyw")
        assert x + w <= 24
        places.add((x, y))
    assert len(places) == len(PANELS)
    scraped = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_the_line_of_drift_is_the_alerts() -> None:
    [bound] = re.findall(r"model_drift_psi > (\S+)", (ROOT / "docs" / "prometheus-rules.yml").read_text())
    [drift] = [panel for panel in PANELS if panel["title"] == "Drift by feature"]
    assert drift["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == float(bound)


# Two runs end, after 20 s and 30 s, then none, then one after 70 s. A version serves, and from minute 5 on another.
SERIES = {
    'airflow_dagrun_duration_success_count{dag_id="a",run_type="manual"}': "_x6 1 1 2 2 2 2 2 2 2 2 2 2 2 2 3 3 3 3",
    'airflow_dagrun_duration_success_sum{dag_id="a",run_type="manual"}': "_x6 20 20 50x11 120x3",
    'model_info{instance="1",version="old"}': "1x19 stale",
    'model_info{instance="2",version="old"}': "1x21 stale",
    'model_info{instance="1",version="new"}': "_x20 1x20",
    'model_info{instance="2",version="new"}': "_x22 1x20",
}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian: the package prometheus)")
def test_runs_are_averaged_as_they_end_and_a_version_is_marked_when_it_begins(tmp_path: Path) -> None:
    took = dashboard_queries("1m")["How long DAG runs took", "{{dag_id}} success"]
    versions = DASHBOARD["annotations"]["list"][0]["expr"]
    assert DASHBOARD["annotations"]["list"][0]["step"] == "60s"

    def at(seconds: int, expression: str, samples: dict[str, float]) -> dict[str, Any]:
        found = [{"labels": labels, "value": value} for labels, value in samples.items()]
        return {"expr": expression, "eval_time": f"{seconds}s", "exp_samples": found}

    expected = [
        at(75, took, {}),  # none ended yet
        at(90, took, {'{dag_id="a"}': 20}),
        at(120, took, {'{dag_id="a"}': 25}),
        at(150, took, {'{dag_id="a"}': 30}),  # the first ended before the window
        at(180, took, {}),
        at(315, took, {'{dag_id="a"}': 70}),
        at(120, versions, {}),
        at(300, versions, {'{version="new"}': 1}),
        at(345, versions, {'{version="new"}': 2}),
        at(360, versions, {}),
    ]
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    tests = [{"interval": "15s", "input_series": series, "promql_expr_test": expected}]
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
