"""Run the whole project without Docker: Airflow, the API and a first model, until Ctrl-C. This is `make run`.

Takes AIRFLOW_PORT, API_PORT and MYSQL_URL (mysql://user:password@host:port/schema) from the environment.
State is kept in .local/, models/ and logs/. Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import httpx2

from launcher import ROOT
from launcher.airflow import SECONDS_TO_START, Airflow, start_airflow, start_triggerer
from launcher.console import LaunchError, Stop, say
from launcher.declaration import mistake
from launcher.environment import (
    CONNECTION_ID,
    LOCAL,
    PASSWORD,
    USER,
    connection_from_environment,
    environment,
    port_from_environment,
)
from launcher.keeper import holders_of
from launcher.processes import COMPONENT_LOGS, Processes, wait_until

SECONDS_TO_END = 30  # for what a launcher that was killed has left: the keeper ends it in 8 to 13

# What needs the declaration is imported in the functions, once main() has looked at that.
if TYPE_CHECKING:
    from penguins.registry import Registry


def trained_version(registry: Registry) -> str | None:
    """Return the current version if the API can serve it. Otherwise return None, and say what is wrong with it.

    RegistryError if it cannot be trusted: then only a person can say that the next model need not be compared with it.
    """
    from penguins.compatibility import ModelError, check_columns, check_libraries
    from penguins.registry import NoModelError, RegistryError

    try:
        serving = registry.current()
    except NoModelError:
        return None
    manifest = registry.manifest(serving)
    try:
        registry.read(serving)
        check_libraries(manifest)
        check_columns(manifest)
    except (RegistryError, ModelError) as error:
        say(f"The existing model cannot be used: {error}")
        return None
    return serving


def check_file() -> None:
    """Hold the table's file against the declaration. LaunchError with what is wrong."""
    from penguins.data.source import SourceError, check_source
    from penguins.schema import CSV_NAME
    from penguins.training.params import PARAMS

    try:
        check_source(ROOT / "dags" / CSV_NAME, PARAMS["test_size"]["default"])
    except SourceError as error:
        raise LaunchError(f"{error}\n`make check` looks again, without a start") from error


def launch(processes: Processes, airflow: Airflow, api_url: str, connection: dict[str, Any]) -> None:
    """Start everything in order, train a model if needed, and print where everything is."""
    from penguins.registry import Registry, RegistryError
    from penguins.schema import NAME

    registry = Registry.from_environment()
    try:
        for problem in registry.init():
            say(problem)
    except RegistryError as error:
        raise LaunchError(error) from error
    try:
        serving = trained_version(registry)
        if trains := not serving:
            check_file()  # which would fail the run, a minute later
    except RegistryError as error:
        say(f"Nothing is trained, because what serves cannot be trusted: {error}")
        say(f"To train without a comparison, trigger {NAME} with ignore_untrusted_serving")
        serving, trains = None, False
    processes.start("api", sys.executable, "-m", "app")
    start_airflow(processes, airflow)
    say(f"Airflow is healthy; connection {CONNECTION_ID} ({connection['conn_type']}): {airflow.connect(connection)}")

    if trains:
        wait_until(f"finding the DAG {NAME}", lambda: airflow.has_dag(NAME), processes, SECONDS_TO_START)
        run_id = airflow.trigger(NAME)
        say(f"Training: run {run_id} of {NAME}")
        airflow.follow(NAME, run_id, processes)
        try:
            serving = registry.current()
        except RegistryError as error:
            say(f"What serves cannot be trusted: {error}")
    if serving:
        show(registry.manifest(serving), processes, api_url)
    # Last, because no task of this DAG needs it. Without it, Airflow's home page shows the triggerer in red.
    start_triggerer(processes)
    print(
        f"\n  Airflow      {airflow.url}   ({USER} / {PASSWORD})"
        f"\n  API          {api_url}   (Swagger UI)"
        f"\n  model        {api_url}/model-info"
        f"\n  report       {api_url}/report"
        f"\n  logs         {COMPONENT_LOGS.parent}"
        "\n\n  Ctrl-C stops it all.\n",
        flush=True,
    )


def show(facts: dict[str, Any], processes: Processes, api_url: str) -> None:
    """Wait until the API serves the version of this manifest, and print what it is and what it says."""
    from penguins.schema import EXAMPLE, TARGET

    api = httpx2.Client(base_url=api_url, trust_env=False, timeout=30)

    locked = bool(processes.env.get("API_KEYS_FILE"))  # the file has hashes, so there is no key to ask with

    def served() -> bool:
        response = api.get("/health/ready" if locked else "/model-info")
        return response.is_success and (locked or response.json()["version"] == facts["version"])

    wait_until(f"loading version {facts['version']} into the API", served, processes, 60)
    held_out, headline = facts["rows"]["test"], facts["metrics"].get("headline")  # older versions have none
    accuracy = f"accuracy {facts['metrics']['accuracy']:.4f} on {held_out} held-out rows"
    say(f"The API serves version {facts['version']}: {accuracy}")
    if headline:
        low, high = headline["interval"]
        say(
            f"  {headline['method']}: {headline['accuracy']:.4f} of {headline['rows']} rows, "
            f"interval {low:.4f} to {high:.4f}"
        )
    if locked:
        say("The API asks for a key: `PYTHONPATH=plugins .venv/bin/python -m penguins.api_keys add NAME` makes one")
    else:
        answer = api.post("/predict", json=EXAMPLE).raise_for_status().json()
        label = answer[TARGET.name]
        say(f"A sample record: {json.dumps(EXAMPLE)}")
        say(f"  is {label}, with probability {answer['probabilities'][label]:.2f}")


@contextmanager
def only_one() -> Iterator[int]:
    """Lock this checkout's state, because two launchers on one database would corrupt it. Yield the lock's descriptor.

    What the launcher starts inherits it: if the launcher is killed, the lock is held until the last of that has ended.
    """
    LOCAL.mkdir(exist_ok=True)
    path = LOCAL / "lock"
    deadline = time.monotonic() + SECONDS_TO_END
    with path.open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                launcher, holders = lock.read(), holders_of(path)
            if launcher in holders:
                raise LaunchError(
                    f"`make run` is running in this folder already, and a second one would use its database, whatever "
                    f"the ports. Stop that one first: Ctrl-C where it runs, or `kill {launcher}`"
                )
            if time.monotonic() > deadline:
                raise LaunchError(
                    "an earlier `make run` in this folder was killed, and left processes that use its database. "
                    f"End them first: `kill -9 {' '.join(holders)}`"
                )
            time.sleep(0.2)
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        yield lock.fileno()


def main() -> int:
    processes: Processes | None = None

    def stop(*_: Any) -> NoReturn:
        # Raised while an object is being destroyed, Stop would be lost. So the loops check this flag as well.
        if processes:
            processes.stopping = True
        raise Stop

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, stop)
    try:
        if wrong := mistake():
            raise LaunchError(wrong)
        with only_one() as lock:
            airflow_port = port_from_environment("AIRFLOW_PORT", 8080)
            api_port = port_from_environment("API_PORT", 8989)
            if airflow_port == api_port:
                raise LaunchError(f"AIRFLOW_PORT and API_PORT are both {api_port}; choose two different ones")
            connection = connection_from_environment()
            processes = Processes(environment(airflow_port, api_port), lock)
            try:
                launch(
                    processes, Airflow(f"http://127.0.0.1:{airflow_port}"), f"http://127.0.0.1:{api_port}", connection
                )
                while True:
                    processes.check()
                    time.sleep(0.5)
            finally:
                for number in signals:
                    signal.signal(number, signal.SIG_IGN)
                say("Stopping")
                processes.stop()
                say("Stopped")
    except Stop:
        return 0
    except (LaunchError, httpx2.HTTPError) as error:
        print(f"\nmake run: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
