"""The journal in a real MySQL or MariaDB, as replicas on several machines share one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine, text

import app.journal.feedback
from app.journal.journal import Journal
from app.main import create_app
from app.monitoring.counts import Recorder
from app.serving.model_server import Predicted, Served
from app.settings import Settings
from penguins.inference import Prediction
from penguins.journal import tables
from penguins.journal.__main__ import main
from penguins.journal.tables import TABLES, engine_of
from penguins.registry import Registry
from penguins.schema import EXAMPLE, FEATURES, TARGET

TRUE = TARGET.example
FALSE = next(label for label in TARGET.values if label != TRUE)
SERVED: Any = Served({"version": "v"}, None, None)  # type: ignore[arg-type]
SURE = Prediction(TRUE, {TRUE: 1.0})


@pytest.fixture
def url(own_mysql_url: str) -> Iterator[str]:
    """The URL of a journal on the server, without any of its tables."""
    _, _, rest = own_mysql_url.partition("://")
    url = f"mysql+pymysql://{rest}"
    yield url
    engine = engine_of(url)
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"DROP TABLE IF EXISTS {table.name}"))
    engine.dispose()


def test_ids_feedback_accuracy_and_the_export_are_as_in_sqlite(
    url: str,
    registry: Registry,
    publish: Callable[[], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app.journal.feedback, "SECONDS_TO_WAIT", 0)  # no other process writes
    publish()
    with TestClient(create_app(Settings(journal_url=url), registry)) as client:

        def outcomes(*labels: tuple[str, str]) -> list[str]:
            answer = client.post("/feedback", json=[{"id": name, TARGET.name: truth} for name, truth in labels])
            return [result["outcome"] for result in answer.raise_for_status().json()["results"]]

        for name in ("a", "A"):
            client.post("/predict", json={**EXAMPLE, "sex": None}, headers={"X-Request-ID": name}).raise_for_status()
        assert outcomes(("a", FALSE), ("b", TRUE), ("A ", TRUE)) == ["new", "unknown", "unknown"]
        assert outcomes(("a", TRUE), ("A", FALSE)) == ["corrected", "new"]
        assert outcomes(("a", TRUE)) == ["repeated"]
        metrics = client.get("/metrics").text
        assert 'model_feedback_labels{model="modelo_penguin"} 2.0' in metrics
        assert 'model_feedback_accuracy{model="modelo_penguin"} 0.5' in metrics
        client.app.state.journal.tidy()  # type: ignore[attr-defined]
        assert main(["export", str(tmp_path / "x.csv"), "--url", url]) == 0
    assert [line.split(",")[0] for line in (tmp_path / "x.csv").read_text().splitlines()[1:]] == [TRUE, FALSE]


def test_what_is_too_much_goes_and_tables_of_other_columns_stay(url: str) -> None:
    recorder = Recorder()
    journal = Journal(url, recorder, days=30, max_rows=10)
    journal.predicted(Predicted(SERVED, [EXAMPLE] * 25, [SURE] * 25), "a")
    journal.flush()
    journal.tidy()
    with journal.engine.begin() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM predictions")) == 10
        connection.execute(text(f"ALTER TABLE predictions DROP COLUMN {FEATURES[0].name}"))
    tables.make_tables(journal.engine)
    with journal.engine.begin() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM predictions")) == 0
        (kept,) = (name for (name,) in connection.execute(text("SHOW TABLES")) if name.startswith("predictions_"))
        assert connection.scalar(text(f"SELECT COUNT(*) FROM {kept}")) == 10
        connection.execute(text(f"DROP TABLE {kept}"))
    assert recorder.counts().journal_rows_lost == 0
    journal.engine.dispose()


def server_of(engine: Engine) -> psutil.Process:
    return next(
        psutil.Process(one.pid)
        for one in psutil.net_connections("tcp")
        if one.status == "LISTEN" and one.pid and one.laddr.port == engine.url.port
    )


def test_a_server_that_stops_answering_costs_rows_and_is_written_to_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SECONDS_TO_WAIT", 1)
    recorder = Recorder()
    journal = Journal(url, recorder, days=30, max_rows=100)

    def write() -> tuple[int, int]:
        journal.predicted(Predicted(SERVED, [EXAMPLE], [SURE], batch=False), "a")
        journal.flush()
        counts = recorder.counts()
        return counts.journal_rows, counts.journal_rows_lost

    assert write() == (1, 0)
    server = server_of(journal.engine)
    server.send_signal(signal.SIGSTOP)
    try:
        assert write() == (1, 1)
    finally:
        server.send_signal(signal.SIGCONT)
    assert write() == (2, 1)
    journal.engine.dispose()
