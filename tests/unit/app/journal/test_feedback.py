"""Ids, feedback and the accuracy that it comes to, as a client of the service sees them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete

import app.journal.feedback
import app.journal.metrics
from app.main import create_app
from app.serving.model_server import Predicted, Served
from app.settings import Settings
from penguins.evaluation.accuracy import wilson
from penguins.inference import Prediction
from penguins.journal.tables import file_of, predictions
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES, TARGET, Number

Rows = Callable[[str], list[dict[str, Any]]]
FAST, ORDINARY = "application/json", "application/json; charset=utf-8"
TRUE = TARGET.example
FALSE, THIRD = (label for label in TARGET.values if label != TRUE)


@contextmanager
def service(registry: Registry, url: str | None) -> Iterator[TestClient]:
    settings = Settings(journal_url=url)
    with TestClient(create_app(settings, registry), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(published: Registry, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The service with a journal, into which no other process writes."""
    monkeypatch.setattr(app.journal.feedback, "SECONDS_TO_WAIT", 0)
    with service(published, url) as client:
        yield client


def predict(client: TestClient, request_id: str) -> None:
    assert client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": request_id}).json()[TARGET.name] == TRUE


def made(version: str, label: str) -> Predicted:
    served: Any = Served({"version": version}, None, None)  # type: ignore[arg-type]
    return Predicted(served, [EXAMPLE], [Prediction(label, {})], batch=False)


def say(client: TestClient, *labels: tuple[str, str]) -> Any:
    """Give feedback: one label, or a list of several."""
    bodies = [{"id": name, TARGET.name: truth} for name, truth in labels]
    return client.post("/feedback", json=bodies if len(bodies) > 1 else bodies[0])


def outcomes(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [result["outcome"] for result in answer.json()["results"]]


def metrics(client: TestClient) -> dict[str, float]:
    """Return the journal's and feedback's figures, without what their names begin with."""
    line = r'^model_((?:journal|feedback)\w*){(\S*?),?model="modelo_penguin"} (\S+)$'
    found = re.findall(line, client.get("/metrics").text, re.MULTILINE)
    return {name + (f"{{{labels}}}" if labels else ""): float(value) for name, labels, value in found}


def protocol_body(rows: int) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": c.name,
                "shape": [rows],
                "datatype": "FP64" if isinstance(c, Number) else "BYTES",
                "data": [EXAMPLE[c.name]] * rows,
            }
            for c in FEATURES
        ]
    }


def test_each_prediction_is_noted_under_the_id_that_is_echoed(client: TestClient, rows: Rows) -> None:
    batch, tensors = {"records": [EXAMPLE] * 2}, protocol_body(501)
    asked = [("/predict", EXAMPLE, ""), ("/predict/batch", batch, "/1"), ("/predict/batch?counted=true", batch, "/1")]
    noted: list[str] = []
    for kind in (FAST, ORDINARY):
        for path, body, row in [*asked, ("/v2/models/modelo_penguin/infer", tensors, "/500")]:
            for headers in ({"X-Request-ID": f"r{len(noted)}"}, {}):
                answer = client.post(path, json=body, headers={"content-type": kind, **headers})
                assert answer.status_code == 200
                name = answer.headers["X-Request-ID"]
                assert name == headers.get("X-Request-ID", name)
                noted.append(name + row)
    assert len(set(noted)) == 16
    # Nothing is noted of what is no prediction.
    for path, body in (("/predict", {}), ("/predict/batch?counted=false", batch), ("/predict/batch", {})):
        assert "X-Request-ID" not in client.post(path, json=body, headers={"X-Request-ID": "none"}).headers
    assert set(outcomes(say(client, *((name, TRUE) for name in noted)))) == {"new"}
    found = [row["id"] for row in rows("predictions")]
    assert len(found) == len(set(found)) == 4 * (1 + 2 + 2 + 501)
    assert not any(name.startswith("none") for name in found)
    assert metrics(client)["journal_rows_total"] == len(found)


def test_without_a_journal_nothing_is_kept_or_echoed_or_there(published: Registry) -> None:
    with service(published, None) as client:
        for kind in (FAST, ORDINARY):
            answer = client.post("/predict", json=EXAMPLE, headers={"X-Request-ID": "r", "content-type": kind})
            assert set(answer.headers) == {"content-length", "content-type"}
        refused = say(client, ("r", TRUE))
        assert refused.status_code == 404
        assert "set API_JOURNAL_URL" in refused.json()["detail"]
        assert metrics(client) == {}


def test_feedback_that_is_new_repeated_or_a_correction(client: TestClient, rows: Rows) -> None:
    predict(client, "a")
    predict(client, "b")
    first = say(client, ("a", FALSE))
    version = client.get("/model-info").json()["version"]
    result = {"id": "a", "outcome": "new", "predicted": TRUE, "model_version": version}
    assert first.json() == {"results": [result]}
    assert outcomes(say(client, ("a", FALSE))) == ["repeated"]
    assert metrics(client)["feedback_accuracy"] == 0
    assert outcomes(say(client, ("b", TRUE), ("a", TRUE), ("b", TRUE))) == ["new", "corrected", "repeated"]
    assert outcomes(say(client, ("a", FALSE))) == ["corrected"]
    kept = [(row["id"], row[f"predicted_{TARGET.name}"], row[TARGET.name]) for row in rows("feedback")]
    assert kept == [("b", TRUE, TRUE), ("a", TRUE, FALSE)]  # one row for a prediction, however often it is corrected
    assert [row[c.name] for row in rows("feedback") for c in FEATURES] == [EXAMPLE[c.name] for c in FEATURES] * 2
    found = metrics(client)
    assert (found["feedback_labels"], found["feedback_accuracy"]) == (2, 0.5)
    assert (found["feedback_accuracy_lower"], found["feedback_accuracy_upper"]) == pytest.approx(wilson(1, 2))
    assert {name: value for name, value in found.items() if "class" in name} == pytest.approx(
        {f'feedback_class_labels{{class="{THIRD}"}}': 0}
        | {f'feedback_class_labels{{class="{label}"}}': 1 for label in (TRUE, FALSE)}
        | {
            f'feedback_class_{what}{{class="{label}"}}': value
            for label, right in ((TRUE, 1), (FALSE, 0))
            for what, value in zip(
                ("accuracy", "accuracy_lower", "accuracy_upper"), (right, *wilson(right, 1)), strict=True
            )
        }
    )


def test_a_correction_counts_although_the_clock_went_back(
    client: TestClient, published: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class In2001(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime(2001, 1, 1, tzinfo=tz)

    predict(client, "a")
    say(client, ("a", FALSE))
    monkeypatch.setattr(app.journal.feedback, "datetime", In2001)
    for truth in (TRUE, FALSE, TRUE):
        assert outcomes(say(client, ("a", truth))) == ["corrected"]
        assert metrics(client)["feedback_accuracy"] == (truth == TRUE)
    with service(published, url) as restarted:
        assert metrics(restarted)["feedback_accuracy"] == 1


def test_an_unknown_id_is_named_and_the_others_of_a_list_are_kept(client: TestClient, rows: Rows) -> None:
    alone = say(client, ("nobody", TRUE))
    assert alone.status_code == 404
    for said in ("'nobody'", "X-Request-ID", "30 days", "1,000,000"):
        assert said in alone.json()["detail"]
    predict(client, "a")
    assert outcomes(say(client, ("nobody", TRUE), ("a", TRUE))) == ["unknown", "new"]
    assert [row["id"] for row in rows("feedback")] == ["a"]
    assert metrics(client)["feedback_labels"] == 1


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"id": "a", TARGET.name: "Emperor"}, ["body", "one", TARGET.name]),
        ({"id": 1, TARGET.name: TRUE}, ["body", "one", "id"]),
        ({"id": "a", TARGET.name: 1}, ["body", "one", TARGET.name]),
        ([{"id": "a", TARGET.name: TRUE}, {"id": "b"}], ["body", "list", 1, TARGET.name]),
        ([{"id": "a", TARGET.name: TRUE}, {"id": "a", TARGET.name: FALSE}], ["body", "list", 1, TARGET.name]),
        ([], ["body", "list"]),
        ([{"id": str(n), TARGET.name: TRUE} for n in range(10_001)], ["body", "list"]),
        ("a", ["body", "one"]),
    ],
    ids=["no class", "no text", "a number", "no truth", "contradicts itself", "empty", "too many", "a text"],
)
def test_what_is_no_feedback_is_refused_and_nothing_kept(
    client: TestClient, rows: Rows, body: Any, where: list[Any]
) -> None:
    predict(client, "a")
    answer = client.post("/feedback", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == where
    assert client.post("/feedback", json={"id": "a", TARGET.name: TRUE}).status_code == 200
    assert len(rows("feedback")) == 1


def test_replicas_know_each_others_predictions_and_say_the_same(
    published: Registry, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with service(published, url) as one, service(published, url) as other:

        async def written_meanwhile(_: float) -> None:
            one.app.state.journal.flush()  # type: ignore[attr-defined]

        monkeypatch.setattr(app.journal.feedback, "sleep", written_meanwhile)
        for number in range(3):
            predict(one, f"{number}")
        # The other replica may not have written yet: feedback waits for it.
        assert outcomes(say(other, ("0", TRUE))) == ["new"]
        assert outcomes(say(one, ("0", TRUE), ("1", FALSE))) == ["repeated", "new"]
        assert outcomes(say(other, ("1", TRUE), ("2", FALSE))) == ["corrected", "new"]
        figures = [metrics(client) for client in (one, other)]
        assert figures[0].pop("journal_rows_total") == 3
        assert figures[1].pop("journal_rows_total") == 0
        assert figures[0] == figures[1]
        assert (figures[0]["feedback_labels"], figures[0]["feedback_accuracy"]) == (3, pytest.approx(2 / 3))


def test_a_version_long_gone_can_be_told_the_truth_days_later(client: TestClient) -> None:
    journal = client.app.state.journal  # type: ignore[attr-defined]
    journal.predicted(made("gone", FALSE), "old")
    answer = say(client, ("old", TRUE)).json()["results"][0]
    assert (answer["predicted"], answer["model_version"]) == (FALSE, "gone")
    found = metrics(client)
    assert (found["feedback_other_labels"], found["feedback_labels"]) == (1, 0)
    assert "feedback_accuracy" not in found


def test_only_the_last_labels_count(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, truth in (("a", FALSE), ("b", TRUE)):
        predict(client, name)
        say(client, (name, truth))
    assert metrics(client)["feedback_accuracy"] == 0.5
    monkeypatch.setattr(app.journal.metrics, "LABELS_COUNTED", 1)
    client.app.state.journal.predicted(made("gone", FALSE), "other")  # type: ignore[attr-defined]
    say(client, ("other", TRUE))  # of another version: it takes no place
    found = metrics(client)
    assert (found["feedback_labels"], found["feedback_accuracy"], found["feedback_other_labels"]) == (1, 1, 1)


def test_on_a_full_disk_feedback_is_refused_whole_and_predictions_go_on(
    client: TestClient, rows: Rows, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    for name in ("a", "b"):
        predict(client, name)
    assert outcomes(say(client, ("a", TRUE))) == ["new"]
    path = file_of(client.app.state.journal.engine)  # type: ignore[attr-defined]
    assert path is not None
    with full_disk(path.with_name(f"{path.name}-wal").stat().st_size + 50):
        refused = say(client, ("a", FALSE), ("b", FALSE))
        assert refused.status_code == 503
        assert "nothing was kept: " in refused.json()["detail"]
        predict(client, "c")
    assert [(row["id"], row[TARGET.name]) for row in rows("feedback")] == [("a", TRUE)]
    assert metrics(client)["feedback_accuracy"] == 1
    assert outcomes(say(client, ("a", FALSE), ("b", FALSE))) == ["corrected", "new"]


def test_where_the_journal_was_taken_away_feedback_is_refused_and_predictions_go_on(client: TestClient) -> None:
    predict(client, "a")
    say(client, ("a", TRUE))
    path = file_of(client.app.state.journal.engine)  # type: ignore[attr-defined]
    assert path is not None
    path.parent.rename(path.parent.with_name("away"))
    path.parent.touch()
    refused = say(client, ("a", FALSE))
    assert (refused.status_code, refused.json()["detail"][:17]) == (503, "nothing was kept:")
    predict(client, "b")
    assert 'model_ready{model="modelo_penguin"} 1.0' in client.get("/metrics").text
    path.parent.unlink()
    path.parent.with_name("away").rename(path.parent)
    predict(client, "c")
    assert outcomes(say(client, ("a", FALSE), ("c", TRUE))) == ["corrected", "new"]


def test_feedback_outlives_its_prediction_and_can_be_corrected_even_then(client: TestClient, rows: Rows) -> None:
    predict(client, "a")
    predict(client, "b")
    say(client, ("a", FALSE))
    with client.app.state.journal.engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(delete(predictions))
    assert outcomes(say(client, ("a", TRUE), ("b", TRUE))) == ["corrected", "unknown"]
    assert metrics(client)["feedback_accuracy"] == 1
    assert rows("feedback")[0][FEATURES[0].name] == EXAMPLE[FEATURES[0].name]


def test_a_label_that_another_process_keeps_at_the_same_moment_counts_once(
    client: TestClient, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(client, "a")
    journal = client.app.state.journal  # type: ignore[attr-defined]
    known = app.journal.feedback._known(journal, {"a"})
    raced: list[list[str]] = []

    def delete_after_another(table: Any) -> Any:
        if not raced:
            raced.append([])
            raced.append([r.outcome for r in app.journal.feedback._keep(journal, [("a", FALSE)], known)])
        return delete(table)

    monkeypatch.setattr(app.journal.feedback, "delete", delete_after_another)
    results = app.journal.feedback._keep(journal, [("a", TRUE)], known)
    assert (raced[1], [result.outcome for result in results]) == (["new"], ["corrected"])
    assert [row[TARGET.name] for row in rows("feedback")] == [TRUE]


def test_an_id_used_twice_means_the_later_prediction(client: TestClient) -> None:
    journal = client.app.state.journal  # type: ignore[attr-defined]
    for label in (FALSE, THIRD):
        journal.predicted(made("v", label), "twice")
    assert say(client, ("twice", TRUE)).json()["results"][0]["predicted"] == THIRD
