"""A version's report: one self-contained HTML file, rendered from the manifest when the version is published.

`report.html` in this folder is the template, `figures.py` turns figures into texts and coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penguins.compatibility import ModelError, check_columns
from penguins.evaluation.accuracy import wilson
from penguins.registry import Registry, RegistryError
from penguins.report.figures import (
    BOTTOM,
    FEATURES_LISTED,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    bars,
    calibration_plot,
    history_plot,
    mark,
    mistakes,
    percent,
    scatter_plot,
)
from penguins.schema import TARGET, TRAINED, Number

# A report holds inline styles and images, and loads nothing. Only pages of the same origin may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}
# A matrix of more classes is unreadable, so the most frequent misclassifications are listed instead.
CLASSES_IN_MATRIX = 20
HEADLINES = {
    "cross-validation": "Cross-validated accuracy",
    "out-of-bag": "Out-of-bag accuracy",
    "held-out": "Held-out accuracy",
}
OUTCOMES = {
    "first version": "first version",
    "no comparison": "no comparison",
    "too few rows": "too few rows to compare",
    "not worse": "not worse",
    "worse": "worse",
}
# Of the population stability index: up to the first it is noise, over the second another population.
DRIFT_BOUNDS = (0.1, 0.25)


def render(
    manifest: Mapping[str, Any], *, points: Mapping[str, Any] | None, earlier: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return the report of the version that the manifest describes.

    Parameters
    ----------
    manifest : mapping
        As passed by `Registry.publish`.
    points : mapping or None
        From `inspection.points`.
    earlier : sequence of mapping
        From `accuracies`, newest first.
    """
    import jinja2  # comes with Airflow; the API only serves reports and does not need it

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    metrics, classes = manifest["metrics"], manifest["classes"]
    held_out = manifest["rows"]["test"]
    right = sum(row[index] for index, row in enumerate(metrics["confusion_matrix"]))
    history = [*reversed(earlier), summary(manifest)]
    return template.render(
        manifest=manifest,
        metrics=metrics,
        classes=classes,
        target=TARGET,
        columns=[{"column": c, "number": isinstance(c, Number)} for c in TRAINED],
        right=right,
        held_out=held_out,
        inspected=sum(tenth["rows"] for tenth in manifest["calibration"]),
        interval=wilson(right, held_out),
        headline=HEADLINES[metrics["headline"]["method"]],
        outcome=OUTCOMES[metrics["gate"]["outcome"]],
        drift=drift_rows(manifest.get("drift")),
        matrix=metrics["confusion_matrix"] if len(classes) <= CLASSES_IN_MATRIX else None,
        mistakes=mistakes(metrics["confusion_matrix"], classes),
        importance=bars(manifest["importance"]),
        calibration=calibration_plot(manifest["calibration"]),
        scatter=scatter_plot(points, list(TARGET.values)) if points else None,
        legend=[{"name": name, **mark(TARGET.values.index(name))} for name in classes],
        history=history,
        history_plot=history_plot(history),
        frame={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    ).encode()


def summary(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a version's entry in the history: its headline, or the held-out accuracy if it has none yet."""
    held_out = {"accuracy": manifest["metrics"]["accuracy"], "rows": manifest["rows"]["test"], "method": "held-out"}
    headline = manifest["metrics"].get("headline", held_out)
    return {"version": manifest["version"], **{name: headline[name] for name in held_out}}


def drift_rows(drift: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each feature's stability index and its meaning, largest first; empty without a previous version."""
    noise, other = DRIFT_BOUNDS
    return [
        {"name": name, "psi": psi, "means": "no change" if psi <= noise else "some" if psi <= other else "much"}
        for name, psi in sorted((drift or {"psi": {}})["psi"].items(), key=lambda item: -item[1])[:FEATURES_LISTED]
    ]


def accuracies(registry: Registry) -> list[dict[str, Any]]:
    """Return version, accuracy, rows and method of each trusted version of this table, newest first."""
    trusted = []
    for version in registry.versions():
        try:
            manifest = registry.manifest(version)
            check_columns(manifest)
            trusted.append(summary(manifest))
        except (RegistryError, ModelError, KeyError):  # damaged, or of another table: left out of the history
            continue
    return trusted
