"""Turn a manifest's figures into the texts and coordinates that report.html shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from penguins.evaluation.accuracy import wilson
from penguins.schema import TRAINED, Number

MISTAKES_LISTED = 30
FEATURES_LISTED = 40
# The plots' viewBox, and the frame in it that the data fill. Small, so that the text stays readable on a phone.
WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 428, 12, 276
COLOURS, SHAPES = 7, 5  # in the template; coprime, so that they make 35 distinct pairs


def percent(share: float) -> str:
    """Return a percentage with one decimal, or with up to six if it would read as 0 or 100 % otherwise."""
    text = f"{100 * share:.1f}"
    for decimals in range(2, 7):
        if not (0 < abs(share) < 1 and float(text) in (0, 100)):
            break
        text = f"{100 * share:.{decimals}f}"
    return f"{text}\N{NO-BREAK SPACE}%"


def mistakes(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the most frequent misclassifications, as pairs of a true and a predicted class."""
    pairs: list[dict[str, Any]] = [
        {"truth": classes[i], "predicted": classes[j], "rows": rows}
        for i, row in enumerate(matrix)
        for j, rows in enumerate(row)
        if i != j and rows
    ]
    return sorted(pairs, key=lambda pair: -pair["rows"])[:MISTAKES_LISTED]


def bars(importance: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the most important features, each with the width of its bar in percent of the longest."""
    strongest = sorted(importance.items(), key=lambda item: -item[1]["mean"])[:FEATURES_LISTED]
    longest = max(strongest[0][1]["mean"], 1e-9)
    return [{"name": name, **of, "width": round(100 * max(of["mean"], 0) / longest, 1)} for name, of in strongest]


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`, or the single number if they are equal."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, math.floor(high / step + 1e-9) + 1)]


class Axis:
    """Maps a value to its position in a plot: `low` to `start`, `high` to `end`."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def marks(self) -> list[dict[str, Any]]:
        return [{"at": self(value), "label": f"{value:.10g}"} for value in ticks(self.low, self.high)]


def mark(index: int) -> dict[str, int]:
    """Return the colour and the shape of the class with this index."""
    return {"colour": index % COLOURS, "shape": index % SHAPES}


def axis_title(name: str) -> str:
    """Return a column's name, with its unit unless the name ends with it."""
    unit = next(c.unit for c in TRAINED if isinstance(c, Number) and c.name == name)
    return name if name.endswith(f"_{unit}") or not unit else f"{name} ({unit})"


def scatter_plot(points: Mapping[str, Any], values: Sequence[str]) -> dict[str, Any] | None:
    """Return the held-out rows by the two most important measurements; None if no row has both."""
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
        "points": sorted(marks, key=lambda m: m["wrong"]),  # misclassified rows on top
        "wrong": sum(m["wrong"] for m in marks),
    }


def calibration_plot(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the share predicted correctly by predicted probability, with Wilson's intervals."""
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
    """Return the accuracy by version, oldest first, with Wilson's intervals."""
    intervals = [wilson(round(v["accuracy"] * v["rows"]), v["rows"]) for v in history]
    x = Axis(0, len(history) - 1, LEFT + 20, RIGHT - 20)
    y = Axis(min(low for low, _ in intervals), 1, BOTTOM - 10, TOP + 10)
    shown = [
        {"x": x(n), "y": y(version["accuracy"]), "low": y(low), "high": y(high), "number": n + 1}
        for n, (version, (low, high)) in enumerate(zip(history, intervals, strict=True))
    ]
    return {"versions": shown, "y_marks": y.marks()}
