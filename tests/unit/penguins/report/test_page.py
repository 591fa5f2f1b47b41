"""The report: its figures, its coordinates, and a page that stands by itself whatever the schema is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from penguins.evaluation.accuracy import Accuracy, Comparison
from penguins.evaluation.gate import Baseline, judge
from penguins.registry import Registry
from penguins.report import figures
from penguins.report import page as page_module
from penguins.report.figures import (
    LEFT,
    RIGHT,
    Axis,
    axis_title,
    bars,
    history_plot,
    mistakes,
    percent,
    ticks,
)
from penguins.report.page import accuracies, render
from penguins.schema import FEATURES, NUMBERS, TARGET, TRAINED, Category, Number

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]
VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
AWKWARD = """<script>alert("1")</script> & 'b' {{ 7 * 7 }}"""


class Page(HTMLParser):
    """A page's elements, checked to be closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def manifest(trained: Trained) -> dict[str, Any]:
    """A manifest as `publish` hands it over; two Chinstraps were taken for Adelies."""
    facts = json.loads(json.dumps(trained[1]))
    facts["metrics"]["confusion_matrix"] = [[30, 0, 0], [2, 12, 0], [0, 0, 25]]
    facts["metrics"]["accuracy"] = 67 / 69
    return {
        **facts,
        "version": "20260102T000000Z-0123abcd",
        "created_at": "2026-01-02T00:00:00Z",
        "sha256": "0123abcd" * 8,
        "size_bytes": 12345,
        "params": {"csv_path": "penguins_size.csv"},
    }


POINTS = {
    "x": "culmen_length_mm",
    "y": "body_mass_g",
    "sampled": False,
    "rows": [[40, 4000, 0, 0], [50, 5000, 1, 0], [45, 4400, 2, 2]],
}
EARLIER = [{"version": "20260101T000000Z-aaaaaaaa", "accuracy": 0.9, "rows": 50, "method": "held-out"}]


def page_of(manifest: dict[str, Any], points: Any = POINTS, earlier: Any = EARLIER) -> Page:
    return Page(render(manifest, points=points, earlier=earlier).decode())


# figures


def test_a_percentage_is_not_all_or_nothing_where_it_is_not() -> None:
    for share, said in (
        *((1, "100.0"), (0, "0.0"), (0.5, "50.0"), (0.9989, "99.9"), (0.9999, "99.99"), (0.99995, "99.995")),
        *((4e-6, "0.0004"), (-4e-6, "-0.0004"), (1 - 1e-12, "100.000000")),
    ):
        assert percent(share) == f"{said}\N{NO-BREAK SPACE}%"


def test_mistakes_are_the_commonest_first_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = [[9, 1, 3], [0, 9, 0], [2, 0, 9]]
    first = {"truth": "a", "predicted": "c", "rows": 3}
    found = mistakes(matrix, ["a", "b", "c"])
    assert [m["rows"] for m in found] == [3, 2, 1]
    assert found[0] == first
    monkeypatch.setattr(figures, "MISTAKES_LISTED", 1)
    assert mistakes(matrix, ["a", "b", "c"]) == [first]


def test_bars_are_sorted_and_none_is_negative() -> None:
    shown = bars({"a": {"mean": 0.1, "sd": 0}, "b": {"mean": -0.2, "sd": 0}, "c": {"mean": 0.4, "sd": 0}})
    assert [(b["name"], b["width"]) for b in shown] == [("c", 100), ("a", 25), ("b", 0)]
    assert [b["width"] for b in bars({"a": {"mean": 0, "sd": 0}, "b": {"mean": -1, "sd": 0}})] == [0, 0]


def test_ticks_are_few_and_round() -> None:
    for low, high, expected in (
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (32.1, 59.6, [35, 40, 45, 50, 55]),
        (2700, 6300, [3000, 4000, 5000, 6000]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0.901, 1, [0.92, 0.94, 0.96, 0.98, 1]),
        (5, 5, [5]),
        (1e-7, 6e-7, [1e-7, 2e-7, 3e-7, 4e-7, 5e-7, 6e-7]),
    ):
        assert ticks(low, high) == pytest.approx(expected)


def test_an_axis_maps_its_ends_and_a_single_value_to_the_middle() -> None:
    up = Axis(10, 20, 300, 100)
    assert [up(10), up(15), up(20)] == [300, 200, 100]
    assert Axis(7, 7, 0, 100)(7) == 50


def test_the_marks_of_an_axis_differ_also_where_the_numbers_hardly_do() -> None:
    assert [m["label"] for m in Axis(1_700_000_000, 1_700_000_004, 0, 100).marks()][1] == "1700000001"
    tiny = Axis(1e-12, 6e-12, 0, 100).marks()
    assert [(m["label"], m["at"]) for m in tiny][:2] == [("1e-12", 0), ("2e-12", 20)]


def test_an_axis_says_the_unit_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert axis_title("body_mass_g") == "body_mass_g"
    column = dataclasses.replace(NUMBERS[0], name="length")
    monkeypatch.setattr(figures, "TRAINED", (column,))
    assert axis_title("length") == f"length ({column.unit})"


def test_every_class_of_the_template_has_its_colour_and_its_shape() -> None:
    template = (Path(page_module.__file__).with_name("report.html")).read_text(encoding="utf-8")
    for colour in range(figures.COLOURS):
        assert f".c{colour} {{ fill:" in template
    for shape in range(figures.SHAPES):
        assert f'id="s{shape}"' in template


# the page


def test_the_history_is_of_the_versions_that_can_be_trusted(
    registry: Registry, publish: Publish, trained: Trained
) -> None:
    first, second, third = publish(), publish(), publish()
    (registry.root / second["version"] / "manifest.json").write_text("{}")
    accuracy = first["metrics"]["headline"]["accuracy"]
    expected = [
        {"version": m["version"], "accuracy": accuracy, "rows": 342, "method": "cross-validation"}
        for m in (third, first)
    ]
    assert accuracies(registry) == expected
    pickled, facts = trained
    registry.publish(pickled, {**facts, "columns": facts["columns"][1:]})  # of the table that a fork had before
    assert accuracies(registry) == expected


def test_the_page_says_what_the_manifest_says(manifest: dict[str, Any]) -> None:
    text = page_of(manifest).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        manifest["version"],
        manifest["created_at"],
        manifest["dag_run_id"],
        manifest["sha256"],
        manifest["data"]["sha256"],
        f"A RandomForestClassifier that predicts {TARGET.name}",
        "trained on 273 rows; 69 others were held out",
        f"Cross-validated accuracy {100 * manifest['metrics']['headline']['accuracy']:.1f} %",
        f"{manifest['metrics']['headline']['right']} of 342 rows right",
        "97.1 %",
        "67 of 69 right; 95 % interval 90.0 % to 99.2 %",
        manifest["metrics"]["gate"]["reason"],
        "344 rows, of which 342 were used",
        "csv_path penguins_size.csv",
        f"scikit-learn {manifest['libraries']['scikit-learn']}",
        "20260101T000000Z-aaaaaaaa 90.0 % 50 held-out",
        "3 of the 69 held-out rows (those that have both); 1 of them misclassified",
    ):
        assert said in text, said
    for name, missing in manifest["data"]["missing"].items():
        column = next(c for c in (TARGET, *FEATURES) if c.name == name)
        target = " This is the target." if column is TARGET else ""
        assert f"{name} {column.description}{target} {missing} {column.rule}" in text
    assert "Chinstrap 2 12 0" in text


def test_the_headline_is_the_figure_of_more_rows(manifest: dict[str, Any]) -> None:
    metrics = {k: v for k, v in manifest["metrics"].items() if k != "cross_validation"}
    for surest, first in (
        (Accuracy("out-of-bag", 875, 1000), "Out-of-bag accuracy 87.5"),
        (Accuracy("held-out", 67, 69), "Held-out accuracy 97.1"),
    ):
        page = page_of({**manifest, "metrics": {**metrics, "out_of_bag_accuracy": 0.875, "headline": surest.facts()}})
        assert first in page.text.partition("Macro F1")[0]
        assert "Out-of-bag accuracy 87.5" in page.text
        assert page.text.count("Held-out accuracy 97.1") == 1
        assert "Cross-validated" not in page.text


def test_the_comparison_with_the_serving_version_is_in_words_and_in_figures(manifest: dict[str, Any]) -> None:
    comparison = Comparison(rows=342, right=330, serving_right=341, only_right=1, only_serving_right=12)
    limits = {"min_accuracy": 0.9, "max_accuracy_drop": 0.02}
    baseline = Baseline("20250101T000000Z-bbbbbbbb", note="The file is odd", comparison=comparison)
    gate = asdict(judge(Accuracy("cross-validation", 330, 342), baseline, **limits))
    page = page_of({**manifest, "metrics": {**manifest["metrics"], "gate": gate}})
    assert_accessible(page)
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        gate["reason"],
        "The file is odd",
        "Gate not passed worse",
        "by this version 330",
        "by the serving version only 12",
        "difference in accuracy, 95 % interval -3.2 %, -5.3 % to -1.1 %",
        f"p-value (McNemar's exact test, one-sided) {comparison.p_value:.3g}",
        "below 90.0 %",
        "by more than 2.0 %",
    ):
        assert said in text, said
    assert "by the serving version only" not in page_of(manifest).text


def test_the_drift_is_a_table_with_the_greatest_first(manifest: dict[str, Any]) -> None:
    psi = {"island": 0.02, "sex": 0.3, "body_mass_g": 0.15}
    page = page_of({**manifest, "drift": {"version": "20250101T000000Z-bbbbbbbb", "psi": psi}})
    assert_accessible(page)
    assert "sex 0.300 much body_mass_g 0.150 some island 0.020 no change" in page.text
    assert "Drift" not in page_of({**manifest, "drift": None}).text


def assert_accessible(page: Page) -> None:
    """Every plot has a text, every heading its scope, every reference its element; nothing comes from elsewhere."""
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    plots = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert plots
    for plot in plots:
        assert plot["role"] == "img"
    for _, attributes in page.elements:
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        assert (attributes.get("href") or "#").startswith("#") or attributes["href"] == "try"  # of whoever serves it
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    for header in page.all("th"):
        assert header["scope"] in ("row", "col")
    assert [tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")][:2] == ["h1", "h2"]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")[:1]) == 1
    assert page.all("html")[0]["lang"] == "en"
    assert not page.all("script", "link", "iframe", "object", "img")


def test_the_page_is_accessible_needs_nothing_else_and_is_always_the_same(manifest: dict[str, Any]) -> None:
    content = render(manifest, points=POINTS, earlier=EARLIER)
    text = content.decode()
    assert_accessible(Page(text))
    assert "http" not in text
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    assert render(manifest, points=POINTS, earlier=EARLIER) == content


def test_what_comes_from_outside_is_escaped(manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    values = (AWKWARD, *TARGET.values[1:])
    target = dataclasses.replace(TARGET, values=values, description=AWKWARD)
    columns = tuple(target if c is TARGET else dataclasses.replace(c, description=AWKWARD) for c in TRAINED)
    monkeypatch.setattr(page_module, "TARGET", target)
    for module in (page_module, figures):
        monkeypatch.setattr(module, "TRAINED", columns)
    of = {**manifest["metrics"]["per_class"]}
    of[AWKWARD] = of.pop(TARGET.values[0])
    changed = {
        **manifest,
        "classes": [AWKWARD, *manifest["classes"][1:]],
        "metrics": {**manifest["metrics"], "per_class": of},
        "params": {"csv_path": AWKWARD},
        "dag_run_id": AWKWARD,
    }
    text = render(changed, points=POINTS, earlier=EARLIER).decode()
    page = Page(text)
    assert_accessible(page)
    assert "<script" not in text
    assert page.text.count(AWKWARD) >= 8


def test_without_numbers_or_points_it_says_so(manifest: dict[str, Any]) -> None:
    page = page_of(manifest, points=None)
    assert_accessible(page)
    assert "There are no two measurements to plot." in page.text
    assert "There are no two measurements to plot." in page_of(manifest, points={**POINTS, "rows": []}).text


def test_the_first_version_has_a_history_of_one_in_the_middle(manifest: dict[str, Any]) -> None:
    (only,) = history_plot([{"accuracy": 0.9, "rows": 10}])["versions"]
    assert only["x"] == (LEFT + RIGHT) / 2
    page = page_of(manifest, earlier=[])
    assert_accessible(page)
    assert f"{manifest['version']} (this one)" in page.text


@pytest.mark.parametrize("classes", [2, 20, 21, 300])
def test_any_number_of_classes_and_columns_stays_readable_and_small(
    manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    """With as many rows as a report shows of a large table."""
    names = tuple(f"class number {n}" for n in range(classes))
    target = Category(name="kind", description="What it is.", values=names, example=names[0], required=True)
    features = tuple(
        Number(name=f"measure_{n}", description="A measure.", unit="cm", minimum=0, maximum=9, example=1)
        for n in range(100)
    )
    monkeypatch.setattr(page_module, "TARGET", target)
    for module in (page_module, figures):
        monkeypatch.setattr(module, "TRAINED", (target, *features))
    matrix = [[1000 if i == j else int(j == 0) for j in range(classes)] for i in range(classes)]
    scores = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "rows": 1000}
    changed = {
        **manifest,
        "classes": sorted(names),
        "columns": [{}] * len(features),
        "rows": {"train": 10_000_000, "test": sum(map(sum, matrix))},
        "data": {"sha256": "0" * 64, "rows": 12_000_000, "missing": {c.name: 0 for c in (target, *features)}},
        "metrics": {**manifest["metrics"], "confusion_matrix": matrix, "per_class": dict.fromkeys(names, scores)},
        "importance": {c.name: {"mean": 0.1, "sd": 0.01} for c in features},
        "calibration": [{"probability": n / 10 + 0.05, "rows": 10, "right": n} for n in range(10)],
    }
    rows = [[n / 100, -n, n % classes, 0] for n in range(500)]
    points = {"x": "measure_0", "y": "measure_1", "sampled": True, "rows": rows}
    text = render(changed, points=points, earlier=EARLIER * 10)
    assert len(text) < 500_000
    page = Page(text.decode())
    assert_accessible(page)
    assert ("too many for a matrix" in page.text) == (classes > 20)
    assert "The 40 strongest of 100 columns" in page.text
    assert "are shuffled among 100 of the held-out rows, a random sample" in page.text
    assert "(a random sample of those that have both)" in page.text
    marks = {
        (a.get("href"), (a.get("class") or "").removeprefix("mark ")) for a in page.all("use") if a.get("x") is None
    }
    assert len(marks) == min(classes, 35)
