"""The forest on a real Dask cluster: a scheduler and its workers, each a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from penguins.schema import NUMBERS
from penguins.training import cluster
from penguins.training.cluster import ClusterError
from penguins.training.pipeline import build_pipeline, fit
from support import free_port
from tables import table_of

SECONDS = 180


class Cluster:
    """A Dask scheduler on 127.0.0.1, and the workers that were started for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("scheduler", f"--port={port}")
        self._client: Client | None = None

    def _start(self, kind: str, *options: str, path: str = "") -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "dask", kind, *options),
                    *("--host=127.0.0.1", "--no-dashboard", "--dashboard-address=127.0.0.1:0"),
                ],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": path},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def client(self) -> Client:
        if not self._client:
            self._client = Client(self.address, timeout=SECONDS, set_as_default=False)
        return self._client

    def start_workers(self, count: int, path: str = "") -> None:
        options = ("--no-nanny", "--nthreads=1")
        self.workers += [self._start("worker", self.address, *options, path=path) for _ in range(count)]
        client = self.client  # waits for the scheduler, also where no worker is asked for
        if self.workers:
            client.wait_for_workers(len(self.workers), timeout=SECONDS)

    def tasks_done(self) -> dict[int, int]:
        """Return how many batches of trees each living worker has grown, by process id."""

        def done(dask_worker) -> tuple[int, int]:  # type: ignore[no-untyped-def]
            return os.getpid(), dask_worker.state.executed_count

        return dict(self.client.run(done, on_error="ignore").values())

    def end(self) -> None:
        if self._client:
            self._client.close()
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait(timeout=SECONDS)


@pytest.fixture
def start_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Cluster]]:
    clusters: list[Cluster] = []

    def start(workers: int) -> Cluster:
        started = Cluster(tmp_path)
        clusters.append(started)
        started.start_workers(workers)
        monkeypatch.setenv("TRAIN_CLUSTER", started.address)
        return started

    yield start
    for started in clusters:
        started.end()


@pytest.fixture(scope="module")
def rows(penguins_frames: tuple[pd.DataFrame, pd.DataFrame]) -> pa.Table:
    """Enough penguins for a tree to take some milliseconds."""
    train = pd.concat([penguins_frames[0]] * 30, ignore_index=True)
    noise = np.random.default_rng(0)
    for column in NUMBERS:
        train[column.name] *= noise.normal(1, 0.1, len(train))
    return table_of(train)


def forest_of(rows: pa.Table, trees: int) -> bytes:
    return fit(build_pipeline(n_estimators=trees, max_samples=5_000, random_state=1, rows=rows.num_rows), rows)


def test_the_pickle_is_that_of_one_machine_and_more_than_one_worker_made_it(
    start_cluster: Callable[[int], Cluster], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_it = start_cluster(2)
    assert set(on_it.tasks_done().values()) == {0}
    made_there = forest_of(rows, trees=60)
    done = on_it.tasks_done()
    assert len(done) == 2
    assert min(done.values()) > 0
    monkeypatch.delenv("TRAIN_CLUSTER")
    assert forest_of(rows, trees=60) == made_there
    assert on_it.tasks_done() == done


def test_a_worker_killed_in_the_middle_fails_nothing(
    start_cluster: Callable[[int], Cluster], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_it = start_cluster(2)
    victim = on_it.workers[0]
    with ThreadPoolExecutor() as threads:
        fitting = threads.submit(forest_of, rows, trees=200)
        deadline = time.monotonic() + SECONDS
        while not on_it.tasks_done()[victim.pid]:
            assert time.monotonic() < deadline
        victim.kill()
        assert not fitting.done()
        made_there = fitting.result(timeout=3 * SECONDS)
    assert list(on_it.tasks_done()) == [on_it.workers[1].pid]
    monkeypatch.delenv("TRAIN_CLUSTER")
    assert forest_of(rows, trees=200) == made_there


@pytest.mark.parametrize(
    ("lost", "said"),
    [("workers", "has no worker, and none joined within 2 s"), ("scheduler", "no Dask scheduler answers")],
)
def test_a_cluster_that_is_lost_in_the_middle_is_an_error(
    start_cluster: Callable[[int], Cluster], rows: pa.Table, monkeypatch: pytest.MonkeyPatch, lost: str, said: str
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 2)
    monkeypatch.setattr(cluster, "SECONDS_FOR_A_WORKER", 2)
    on_it = start_cluster(2)
    with ThreadPoolExecutor() as threads:
        fitting = threads.submit(forest_of, rows, trees=2000)
        deadline = time.monotonic() + SECONDS
        while not min(on_it.tasks_done().values()):
            assert time.monotonic() < deadline
        assert not fitting.done()
        for process in on_it.workers if lost == "workers" else [on_it.scheduler]:
            process.kill()
        with pytest.raises(ClusterError, match=said):
            fitting.result(timeout=3 * SECONDS)


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:1", "silent", "stranger"])
def test_an_address_without_a_scheduler_is_a_clear_error(
    address: str, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as threads:
        here = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        if address == "stranger":
            threads.submit(lambda: silent.accept()[0].sendall(b"220 another service\r\n" * 100))
        given = here if address in {"silent", "stranger"} else address
        monkeypatch.setenv("TRAIN_CLUSTER", given)
        with pytest.raises(ClusterError) as error:
            forest_of(rows, trees=2)
    said = str(error.value)
    assert f"TRAIN_CLUSTER is '{given}'" in said
    assert "It must be an address like tcp://dask-scheduler:8786" in said
    assert "unset TRAIN_CLUSTER" in said


def test_too_few_workers_are_a_clear_error(
    start_cluster: Callable[[int], Cluster], rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "SECONDS_FOR_A_WORKER", 2)
    on_it = start_cluster(0)
    with pytest.raises(ClusterError, match=r"has no worker, and none joined within 2 s\. Start a dask-worker"):
        forest_of(rows, trees=2)
    on_it.start_workers(1)
    with pytest.raises(ClusterError, match=r"has only one thread.*start another dask-worker"):
        forest_of(rows, trees=2)
    on_it.start_workers(1)
    assert forest_of(rows, trees=2)


def test_a_worker_with_other_libraries_is_refused(
    start_cluster: Callable[[int], Cluster], rows: pa.Table, tmp_path: Path
) -> None:
    on_it = start_cluster(1)
    other = tmp_path / "other" / "scikit_learn-1.2.3.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 1.2.3\n")
    on_it.start_workers(1, path=str(other.parent))
    with pytest.raises(ClusterError, match=r"the cluster's tcp://\S+ has scikit-learn 1\.2\.3 instead of .*same image"):
        forest_of(rows, trees=2)
    assert set(on_it.tasks_done().values()) == {0}


def test_without_a_cluster_dask_is_not_even_imported(rows: pa.Table, tmp_path: Path) -> None:
    pq.write_table(rows.slice(0, 300), tmp_path / "rows")
    code = (
        "import sys, pyarrow.parquet; from penguins.training.pipeline import build_pipeline, fit\n"
        "rows = pyarrow.parquet.read_table(sys.argv[1])\n"
        "assert fit(build_pipeline(n_estimators=2, max_samples=100, random_state=0, rows=300), rows)\n"
        "assert not {'dask', 'distributed'} & {name.partition('.')[0] for name in sys.modules}\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "TRAIN_CLUSTER"}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "rows")],
        check=False,
        env=env | {"PYTHONPATH": str(Path(cluster.__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert run.returncode == 0, run.stderr
