"""Data and training, compared with the mysql client, ConnectorX and a forest on ready arrays; also at every size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.generate import generate
from benchmarks.mysql import find_server, running_server
from benchmarks.servers import ROOT
from penguins.data.source import Source, check_source, sha256_of
from penguins.registry import Keys
from penguins.schema import COLUMNS, TABLE, Number

if TYPE_CHECKING:
    from penguins.data.warehouse import Warehouse

ROUNDS = 5
ROWS = 1_000_000
SIZES = (344, 100_000, 1_000_000, 10_000_000)
TASKS = (
    *("check_source", "drop_schema", "create_raw_table", "load_raw_data"),
    *("preprocess", "train", "validate", "publish"),
)
PARAMS = {"n_estimators": 100, "max_samples": 100_000, "random_state": 42}


def run(folder: Path, *, sizes: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure on a temporary database server. With `sizes`, also run the DAG's tasks at each size."""
    server = find_server()
    if not server:
        raise RuntimeError("mariadbd or mysqld is not installed (Debian: apt-get install mariadb-server)")
    with running_server(server) as url:
        results = compare(folder, url, say)
        results["sizes"] = {}
        for rows in SIZES if sizes else ():
            results["sizes"][rows] = tasks(folder, url, rows, say)
    return results


def compare(folder: Path, url: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the median seconds of each way, and their spread. The ways alternate."""
    path = folder / "rows.csv"
    say(f"data: {ROWS:,} rows")
    generate(ROWS, path)
    source = check_source(path, test_size=0.2)
    warehouse = _warehouse(url)
    warehouse.create_raw_table()
    train = folder / "train.parquet"
    ways: dict[str, Callable[[], Any]] = {
        "check": lambda: check_source(path, test_size=0.2),
        "open_csv and sha256": lambda: _open_csv_and_sha256(path),
        "load": lambda: warehouse.load(source),
        "load with the mysql client": lambda: _load_with_the_client(url, source),
        "read": lambda: warehouse.read(source),
        "read with ConnectorX": lambda: _read_with_connectorx(url),
        "fit": lambda: _fit(train),
        "fit on ready arrays": _ready_fit(warehouse, source, train),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, ROUNDS + 1):
        for name, way in ways.items():
            started = time.monotonic()
            way()
            seconds[name].append(time.monotonic() - started)
        say(f"data: round {number} of {ROUNDS}")
    return {
        "rows": ROWS,
        "seconds": {name: median(found) for name, found in seconds.items()},
        "spread": {name: (max(found) - min(found)) / median(found) for name, found in seconds.items()},
    }


def _warehouse(url: str) -> Warehouse:
    from airflow.providers.mysql.hooks.mysql import MySqlHook

    from penguins.data.databases import open_warehouse

    os.environ["AIRFLOW_CONN_BENCH"] = _connection(url)
    return open_warehouse(MySqlHook(mysql_conn_id="bench"))


def _connection(url: str) -> str:
    parts = urlsplit(url)
    return json.dumps(
        {
            "conn_type": "mysql",
            "host": parts.hostname,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.path.strip("/"),
            "extra": {"client": "mysql-connector-python"},
        }
    )


def _open_csv_and_sha256(path: Path) -> None:
    import pyarrow.csv

    for _ in pyarrow.csv.open_csv(path):
        pass
    sha256_of(path)


def _load_with_the_client(url: str, source: Source) -> None:
    # The same statement, but without the same strictness.
    parts = urlsplit(url)
    numbers = [c.name for c in COLUMNS if isinstance(c, Number)]
    targets = ", ".join(f"@{c.name}" if c.name in numbers else c.name for c in COLUMNS)
    values = ", ".join(f"{name} = NULLIF(@{name}, 'NA')" for name in numbers)
    statement = (
        f"SET autocommit = 0; DELETE FROM {TABLE}; LOAD DATA LOCAL INFILE '{source.path}' INTO TABLE {TABLE}"
        f" FIELDS TERMINATED BY ',' IGNORE 1 LINES ({targets}) SET {values}; COMMIT"
    )
    subprocess.run(
        [
            *("mysql", "--no-defaults", "--local-infile=1", f"--host={parts.hostname}", f"--port={parts.port}"),
            *(f"--user={parts.username}", parts.path.strip("/"), f"--execute={statement}"),
        ],
        env={**os.environ, "MYSQL_PWD": parts.password or ""},
        check=True,
        timeout=300,
    )


def _read_with_connectorx(url: str) -> None:
    import connectorx

    names = ", ".join(c.name for c in COLUMNS)
    connectorx.read_sql(url, f"SELECT {names} FROM {TABLE} ORDER BY row_id", return_type="arrow")


def _fit(train: Path) -> None:
    import pyarrow.parquet as pq

    from penguins.training.pipeline import build_pipeline, fit

    rows = pq.read_table(train)
    fit(build_pipeline(rows=rows.num_rows, **PARAMS), rows)


def _ready_fit(warehouse: Warehouse, source: Source, train: Path) -> Callable[[], Any]:
    """Write the training file, and return a fit of the same forest on arrays that are already preprocessed."""
    import numpy as np
    import pyarrow.parquet as pq
    from sklearn.base import clone

    from penguins.data.cleaning import clean
    from penguins.schema import TARGET
    from penguins.training.pipeline import build_pipeline, split
    from penguins.training.rows import feature_frame, label_codes

    warehouse.load(source)
    rows, _ = split(clean(warehouse.read(source)), test_size=0.2, random_state=42)
    pq.write_table(rows, train)
    pipeline = build_pipeline(rows=rows.num_rows, **PARAMS)
    features = np.ascontiguousarray(pipeline[:-1].fit_transform(feature_frame(rows)), dtype=np.float32)
    labels = np.array(TARGET.values, dtype=object)[label_codes(rows)]
    return lambda: clone(pipeline[-1]).fit(features, labels)


def tasks(folder: Path, url: str, rows: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the DAG's tasks on that many rows, each in its own process. Return their costs, and facts about the model."""
    here = folder / str(rows)
    here.mkdir()
    params = {"csv_path": str(here / "rows.csv")}
    if rows == 344:
        params = {}
    else:
        generate(rows, here / "rows.csv")
    (here / "params.json").write_text(json.dumps(params))
    Keys(here / "key", here / "key.pub").create()
    env = os.environ | {
        "AIRFLOW_CONN_MYSQL_DEFAULT": _connection(url),
        "MODELS_DIR": str(here / "models"),
        "MODEL_SIGNING_KEY_FILE": str(here / "key"),
    }
    measured = {}
    for task in TASKS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.task", task, str(here)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=1800,
        )
        measured[task] = json.loads(done.stdout.splitlines()[-1])
        say(f"{rows:,} rows: {task} {measured[task]['seconds']:.1f} s, {measured[task]['peak_mb']:.0f} MB")
    xcom = json.loads((here / "xcom.json").read_text())
    manifest = json.loads((here / "models" / xcom["publish"]["version"] / "manifest.json").read_text())
    return {
        "tasks": measured,
        "pickle_mb": manifest["size_bytes"] / 2**20,
        "accuracy": manifest["metrics"]["accuracy"],
        "held_out_rows": manifest["rows"]["test"],
    }


def goals(measured: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return each measured ratio with its goal."""
    seconds = measured["seconds"]
    return {
        f"seconds to check {ROWS:,} rows ÷ Arrow's open_csv and sha256": (
            seconds["check"] / seconds["open_csv and sha256"],
            "at most 3",
        ),
        f"seconds to load {ROWS:,} rows ÷ the mysql client's LOAD DATA": (
            seconds["load"] / seconds["load with the mysql client"],
            "at most 1.2",
        ),
        f"seconds to read {ROWS:,} rows ÷ ConnectorX to Arrow": (
            seconds["read"] / seconds["read with ConnectorX"],
            "at most 1.2",
        ),
        f"seconds to fit {ROWS:,} rows ÷ the same forest on ready arrays": (
            seconds["fit"] / seconds["fit on ready arrays"],
            "at most 1.2",
        ),
    }


def table(measured: dict[str, Any]) -> str:
    """Return a table of the seconds of each way, and of each task at each size."""
    lines = [f"\n{'1,000,000 rows, medians':<36}{'s':>9}{'spread':>8}"]
    lines += [f"{name:<36}{s:9.2f}{measured['spread'][name]:8.0%}" for name, s in measured["seconds"].items()]
    if measured["sizes"]:
        lines.append(f"\n{'seconds / peak MB':<18}" + "".join(f"{int(rows):>16,}" for rows in measured["sizes"]))
        for task in TASKS:
            cells = [found["tasks"][task] for found in measured["sizes"].values()]
            lines.append(f"{task:<18}" + "".join(f"{c['seconds']:9.1f} /{c['peak_mb']:5.0f}" for c in cells))
        lines.append(f"{'pickle MB':<18}" + "".join(f"{m['pickle_mb']:16.1f}" for m in measured["sizes"].values()))
        lines.append(f"{'accuracy':<18}" + "".join(f"{m['accuracy']:16.4f}" for m in measured["sizes"].values()))
    return "\n".join([*lines, ""])
