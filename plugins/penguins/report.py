"""A version's report: one HTML file that needs nothing else, made from the manifest when the version is published.

The functions here turn figures into coordinates; `report.html` in this folder is the template that shows them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penguins.gate import wilson
from penguins.inference import ModelError, check_columns
from penguins.registry import Registry, RegistryError
from penguins.schema import COLUMNS, TARGET, Number

# A report holds styles and inline pictures, and asks for nothing. Only a page of the same address may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
}
# A matrix of more classes is unreadable, and larger than all the rest; the commonest mistakes stand in.
CLASSES_IN_MATRIX = 20
MISTAKES_LISTED = 30
FEATURES_LISTED = 40
HEADLINES = {
    "cross-validation": "Cross-validated accuracy",
    "out-of-bag": "Out-of-bag accuracy",
    "held-out": "Held-out accuracy",
}
OUTCOMES = {
    "first version": "the first version",
    "no comparison": "compared with nothing",
    "too few rows": "too few rows to compare",
    "not worse": "not worse",
    "worse": "worse",
}
# By the population stability index: up to here it is noise, above the second another population.
DRIFT_BOUNDS = (0.1, 0.25)
# The plots' viewBox, and the frame in it that the data fill. Small, so that the text stays readable on a telephone.
WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 428, 12, 276
COLOURS, SHAPES = 7, 5  # of the template's styles and symbols; without a common divisor, 35 pairs differ


def render(
    manifest: Mapping[str, Any], *, points: Mapping[str, Any] | None, earlier: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return the report of the version that the manifest describes.

    Parameters
    ----------
    manifest : mapping
        As `Registry.publish` hands it over.
    points : mapping or None
        What `inspection.points` returned.
    earlier : sequence of mapping
        What `accuracies` returned, newest first.
    """
    import jinja2  # Airflow brings it; the API, which only serves reports, does without

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    metrics, classes = manifest["metrics"], manifest["classes"]
    held_out = manifest["rows"]["test"]
    right = sum(row[place] for place, row in enumerate(metrics["confusion_matrix"]))
    history = [*reversed(earlier), summary(manifest)]
    return template.render(
        manifest=manifest,
        metrics=metrics,
        classes=classes,
        target=TARGET,
        columns=[{"column": c, "number": isinstance(c, Number)} for c in COLUMNS],
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
    """Return what the history says of a version: its headline, or before there was one, its held-out accuracy."""
    held_out = {"accuracy": manifest["metrics"]["accuracy"], "rows": manifest["rows"]["test"], "method": "held-out"}
    headline = manifest["metrics"].get("headline", held_out)
    return {"version": manifest["version"], **{name: headline[name] for name in held_out}}


def drift_rows(drift: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return each feature's stability index and what it means, the greatest first; nothing without a version before."""
    noise, other = DRIFT_BOUNDS
    return [
        {"name": name, "psi": psi, "means": "no change" if psi <= noise else "some" if psi <= other else "much"}
        for name, psi in sorted((drift or {"psi": {}})["psi"].items(), key=lambda item: -item[1])[:FEATURES_LISTED]
    ]


def accuracies(registry: Registry) -> list[dict[str, Any]]:
    """Return version, accuracy, rows and method of each version of this table that can be trusted, newest first."""
    trusted = []
    for version in registry.versions():
        try:
            manifest = registry.manifest(version)
            check_columns(manifest)
            trusted.append(summary(manifest))
        except (RegistryError, ModelError, KeyError):  # spoilt, or of another table: the history does without
            continue
    return trusted


def percent(share: float) -> str:
    """Return it with one decimal, or with as many as tell it from 0 and 100 %; six at most."""
    said = f"{100 * share:.1f}"
    for decimals in range(2, 7):
        if not (0 < abs(share) < 1 and float(said) in (0, 100)):
            break
        said = f"{100 * share:.{decimals}f}"
    return f"{said}\N{NO-BREAK SPACE}%"


def mistakes(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the commonest pairs of a true class and another one that was predicted."""
    pairs: list[dict[str, Any]] = [
        {"truth": classes[i], "predicted": classes[j], "rows": rows}
        for i, row in enumerate(matrix)
        for j, rows in enumerate(row)
        if i != j and rows
    ]
    return sorted(pairs, key=lambda pair: -pair["rows"])[:MISTAKES_LISTED]


def bars(importance: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the features that matter most, each with the width of its bar in percent of the longest."""
    strongest = sorted(importance.items(), key=lambda item: -item[1]["mean"])[:FEATURES_LISTED]
    longest = max(strongest[0][1]["mean"], 1e-9)
    return [{"name": name, **of, "width": round(100 * max(of["mean"], 0) / longest, 1)} for name, of in strongest]


def ticks(low: float, high: float) -> list[float]:
    """Return some five round numbers from `low` to `high`, or the one number that both are."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, math.floor(high / step + 1e-9) + 1)]


class Axis:
    """From a value to its place in a plot: from `start` at `low` to `end` at `high`."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def marks(self) -> list[dict[str, Any]]:
        return [{"at": self(value), "label": f"{value:.10g}"} for value in ticks(self.low, self.high)]


def mark(place: int) -> dict[str, int]:
    """Return the colour and the shape of a class."""
    return {"colour": place % COLOURS, "shape": place % SHAPES}


def axis_title(name: str) -> str:
    """Return a column's name, with its unit unless it says that itself."""
    unit = next(c.unit for c in COLUMNS if isinstance(c, Number) and c.name == name)
    return name if name.endswith(f"_{unit}") or not unit else f"{name} ({unit})"


def scatter_plot(points: Mapping[str, Any], values: Sequence[str]) -> dict[str, Any] | None:
    """Return the held-out rows by the two measurements that matter most; None if no row has both."""
    rows = points["rows"]
    if not rows:
        return None
    x = Axis(min(r[0] for r in rows), max(r[0] for r in rows), LEFT + 10, RIGHT - 10)
    y = Axis(min(r[1] for r in rows), max(r[1] for r in rows), BOTTOM - 10, TOP + 10)
    marks = [
        {"x": x(a), "y": y(b), "wrong": truth != predicted, "truth": values[truth], "predicted": values[predicted]}
        | mark(truth)
        for a, b, truth, predicted in rows
    ]
    return {
        "x": axis_title(points["x"]),
        "y": axis_title(points["y"]),
        "x_marks": x.marks(),
        "y_marks": y.marks(),
        "sampled": points["sampled"],
        "points": sorted(marks, key=lambda m: m["wrong"]),  # the mistakes on top
        "wrong": sum(m["wrong"] for m in marks),
    }


def calibration_plot(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share that was right against the probability that was given, with Wilson's intervals."""
    x, y = Axis(0, 1, LEFT + 10, RIGHT - 10), Axis(0, 1, BOTTOM - 10, TOP + 10)
    shown = []
    for each in bins:
        low, high = wilson(each["right"], each["rows"])
        share = each["right"] / each["rows"]
        shown.append(
            {**each, "share": share, "x": x(each["probability"]), "y": y(share), "low": y(low), "high": y(high)}
        )
    return {"bins": shown, "x_marks": x.marks(), "y_marks": y.marks()}


def history_plot(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracy of the versions, oldest first, with Wilson's intervals."""
    intervals = [wilson(round(v["accuracy"] * v["rows"]), v["rows"]) for v in history]
    x = Axis(0, len(history) - 1, LEFT + 20, RIGHT - 20)
    y = Axis(min(low for low, _ in intervals), 1, BOTTOM - 10, TOP + 10)
    shown = [
        {"x": x(n), "y": y(version["accuracy"]), "low": y(low), "high": y(high), "number": n + 1}
        for n, (version, (low, high)) in enumerate(zip(history, intervals, strict=True))
    ]
    return {"versions": shown, "y_marks": y.marks()}
