"""The dashboard that Grafana shows, as code. `python -m monitoring.dashboard` writes dashboard.json anew."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # The SDK prefers its second version of a dashboard, which Grafana does not read from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import dashboard as models
    from grafana_foundation_sdk.models.common import DataSourceRef, GraphThresholdsStyleMode

FILE = Path(__file__).with_name("dashboard.json")
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")  # as in grafana/datasources.yaml

DRIFTED = 0.25  # as in docs/prometheus-rules.yml
WINDOW = "$__rate_interval"  # what Grafana fills in: a few scrapes, or a step of the graph if that is longer
HALF, THIRD = 12, 8  # of the 24 columns of a row

RUNS = "airflow_dagrun_duration_%s"  # a summary of seconds


def rate(metric: str) -> str:
    return f"rate({metric}[{WINDOW}])"


def latency(quantile: float) -> str:
    buckets = rate('modelo_penguin_request_duration_seconds_bucket{endpoint="/predict"}')
    return f"histogram_quantile({quantile}, sum by (le) ({buckets}))"


def grown(total: str) -> str:
    """By how much a total grew in the window. Unlike `increase`, it sees the first run, which no sample precedes."""
    return f"sum by (dag_id) ({total} - ({total} offset {WINDOW} or {total} * 0))"


def took(runs: str) -> str:
    """Return the mean of the runs that ended in the window, and nothing if none did."""
    return f"{grown(runs + '_sum')} / ({grown(runs + '_count')} > 0)"


def panel(
    title: str, queries: dict[str, str], *, span: int, unit: str = "short", description: str = ""
) -> timeseries.Panel:
    """Return a graph of queries, each under the legend that it is to have."""
    made = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).span(span).height(8)
    for name, (legend, query) in zip("ABCDEF", queries.items(), strict=False):
        made.with_target(prometheus.Dataquery().ref_id(name).expr(query).legend_format(legend).range())
    return made.min(0).legend(common.VizLegendOptions().show_legend(True))


def drift() -> timeseries.Panel:
    steps = [models.Threshold(value=None, color="green"), models.Threshold(value=DRIFTED, color="red")]
    return (
        panel(
            "Drift by feature",
            {"{{feature}}": "max by (feature) (modelo_penguin_drift_psi)"},
            span=HALF,
            description="How far requests have moved from the training rows, on the replica where it is most. Over the "
            "line it is another population, if there were 500 rows or more.",
        )
        .thresholds(dashboard.ThresholdsConfig().steps(steps))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
        .axis_soft_max(DRIFTED)
    )


def feedback(metric: str) -> str:
    """Every replica has read the same journal."""
    return f"max(modelo_penguin_feedback_{metric})"


def versions() -> dashboard.AnnotationQuery:
    """Return a mark for each minute in which a version serves that did not a minute before."""
    serving = "sum by (version) (modelo_penguin_model_info%s)"
    return (
        dashboard.AnnotationQuery()
        .name("Versions")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("purple")
        .expr(f"{serving % ''} unless {serving % ' offset 1m'}")
        .step("60s")
        .title_format("{{version}}")
    )


def build() -> models.Dashboard:
    failed = rate('modelo_penguin_requests_total{status=~"[45].."}')
    page = dashboard.Dashboard("modelo_penguin").uid("modelo_penguin").time("now-1h", "now").refresh("15s")
    page.readonly().timezone("browser").annotation(versions())
    page.with_row(dashboard.Row("Requests"))
    page.with_panel(
        panel(
            "Requests",
            {"{{endpoint}}": f"sum by (endpoint) ({rate('modelo_penguin_requests_total')})"},
            span=THIRD,
            unit="reqps",
        )
    )
    page.with_panel(
        panel(
            "Errors",
            {"{{endpoint}} {{status}}": f"sum by (endpoint, status) ({failed})"},
            span=THIRD,
            unit="reqps",
        )
    )
    page.with_panel(
        panel("Latency of /predict", {f"p{q * 100:g}": latency(q) for q in (0.5, 0.95, 0.99)}, span=THIRD, unit="s")
    )
    page.with_panel(
        panel(
            "Replicas",
            {
                "serve {{version}}": "sum by (version) (modelo_penguin_model_info)",
                "answer Prometheus": 'sum(up{job="modelo_penguin"})',
                "have a model": "sum(modelo_penguin_ready)",
                "refuse the newest version": "sum(modelo_penguin_rejected)",
            },
            span=24,
        )
    )
    page.with_row(dashboard.Row("Model"))
    page.with_panel(
        panel(
            "Predictions by class",
            {"{{class}}": f"sum by (class) ({rate('modelo_penguin_predictions_total')})"},
            span=HALF,
            unit="rowsps",
        )
    )
    page.with_panel(drift())
    page.with_panel(
        panel(
            "Accuracy in the wild",
            {
                "in the wild": feedback("accuracy"),
                "at least": feedback("accuracy_lower"),
                "at most": feedback("accuracy_upper"),
                "in validation": "max(modelo_penguin_model_validation_accuracy)",
            },
            span=THIRD,
            unit="percentunit",
            description="Of the serving version, on the rows whose true class came back. Nothing before one did.",
        ).max(1)
    )
    page.with_panel(
        panel(
            "Accuracy in the wild by true class",
            {"{{class}}": "max by (class) (modelo_penguin_feedback_class_accuracy)"},
            span=THIRD,
            unit="percentunit",
        ).max(1)
    )
    page.with_panel(
        panel(
            "Labels that came back",
            {
                "{{class}}": "max by (class) (modelo_penguin_feedback_class_labels)",
                "all": feedback("labels"),
                "of other versions": feedback("other_labels"),
                "rows lost by the journal": "sum(modelo_penguin_journal_rows_lost_total)",
            },
            span=THIRD,
        )
    )
    page.with_row(dashboard.Row("Airflow"))
    states = ("success", "failed")
    page.with_panel(
        panel(
            "DAG runs that ended",
            {f"{{{{dag_id}}}} {state}": f"sum by (dag_id) ({RUNS % state}_count)" for state in states},
            span=HALF,
        )
    )
    page.with_panel(
        panel(
            "How long DAG runs took",
            {f"{{{{dag_id}}}} {state}": took(RUNS % state) for state in states},
            span=HALF,
            unit="s",
            description="The mean of the runs that ended just before.",
        )
    )
    built = page.build()
    for number, part in enumerate(built.panels or [], start=1):
        part.id_val = number
    return built


def text() -> str:
    return json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
