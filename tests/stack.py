"""An isolated stack: a copy of the tracked files, its own project name, free ports. No other stack is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest

from support import ROOT, copy_project, free_port

T = TypeVar("T")
LONG_LIVED = (
    *("postgres", "mysql", "airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
    "api",
)


# What a container is, from inside: which of the addresses given it can connect to, and what it may do.
LOOK = r"""
for address in "$@"; do
  timeout 3 bash -c "exec 3<>/dev/tcp/${address%:*}/${address##*:}" 2>/dev/null && echo "reached $address" &
done
wait
grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs):' /proc/1/status
(echo >/etc/written) 2>/dev/null && echo 'written' || echo 'refused'
"""

# What is somebody's secret or somebody's data, by the name of a file that it always has, wherever that may lie.
THINGS = {
    "fernet_key": "Fernet key",
    "jwt_secret": "JWT secret",
    "api_secret_key": "session secret",
    "model_signing.key": "signing key",
    "model_signing.pub": "public keys",
    "api_keys": "API keys",
    ".last-pointer": "models",
    "penguins_size.csv": "CSV",
    "PG_VERSION": "Postgres",
    "ibdata1": "MySQL",
}
FIND = r"""
find / \( -path /proc -o -path /sys \) -prune -o -type f -regex '.*/\('"$1"'\)' \
  \( -writable -printf 'rw %f\n' -o -readable -printf 'r %f\n' \) 2>/dev/null || true
"""


class Stack:
    """One compose project. `remove` deletes everything that it created."""

    def __init__(self, name: str, *overlays: str, uid: int = 50000, tutorial_ports: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.project = self.folder.name.lower().replace("_", "-")
        copy_project(self.folder)
        self.files = [part for file in ("docker-compose.yaml", *overlays) for part in ("--file", file)]
        # The tutorial's ports, for the pictures, unless they are taken.
        wanted = (8080, 8989, 5555) if tutorial_ports else (0, 0, 0)
        self.airflow_url, self.api_url, self.flower_url = (f"http://localhost:{free_port(p)}" for p in wanted)
        ports = [url.rpartition(":")[2] for url in (self.airflow_url, self.api_url, self.flower_url)]
        self.prometheus_port = free_port()
        self.env = os.environ | {
            # A user of one's own keeps what is written removable; root's would not fit the image.
            "AIRFLOW_UID": str(os.getuid() or uid),
            "AIRFLOW_PORT": ports[0],
            "API_PORT": ports[1],
            "FLOWER_PORT": ports[2],
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "COMPOSE_PROJECT_NAME": self.project,
        }
        self.api = httpx2.Client(base_url=self.api_url, timeout=60)
        self.password = "airflow"  # the tutorial's

    def compose(self, *arguments: str, timeout: float = 900, check: bool = True) -> str:
        """Run docker compose and return what it printed; AssertionError with all of it if it fails."""
        run = subprocess.run(
            ["docker", "compose", *self.files, *arguments],
            cwd=self.folder,
            env=self.env,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert not check or run.returncode == 0, f"{' '.join(arguments)}: {run.returncode}\n{run.stdout}"
        return run.stdout

    def up(self, *arguments: str) -> None:
        try:
            self.compose("up", "--build", "--detach", "--wait", *arguments)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.compose('logs', '--tail', '40', check=False)}") from None

    def services(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.compose("config", "--format", "json"))["services"]

    def remove(self) -> None:
        self.compose(
            "--profile", "*", "down", "--timeout", "1", "--volumes", "--remove-orphans", "--rmi", "local", check=False
        )
        shutil.rmtree(self.folder)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return `docker inspect` of the newest container of each service."""
        ids = self.compose("ps", "--all", "--quiet").split()
        inspected = json.loads(docker("inspect", *ids))
        return {c["Config"]["Labels"]["com.docker.compose.service"]: c for c in inspected}

    def seen(self, sources: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return which of the THINGS services can read, and how: "r" or "rw"."""
        containers = self.containers()
        names = r"\|".join(name.replace(".", r"\.") for name in THINGS)

        def look(source: str) -> dict[str, str]:
            told = docker("exec", containers[source]["Id"], "bash", "-c", FIND, "find", names).splitlines()
            return {THINGS[name]: how for how, name in sorted(line.split(" ") for line in told)}

        return _at_once(look, sources)

    def with_a_way_out(self, sources: Iterable[str]) -> set[str]:
        """Return the services that a machine outside of this one answers."""
        with outside() as address:
            ask = ("bash", "-c", f"exec 3<>/dev/tcp/{address.replace(':', '/')} && echo reached || true")
            # On Docker's own network, as a container usually is.
            others = ("run", "--rm", f"{self.project}-api", *ask)
            self.wait_until("others have a way out", lambda: docker(*others) == "reached\n")
            return {source for source, found in self.reached(sources, {}, [address]).items() if found}

    def reached(
        self, sources: Iterable[str], targets: Mapping[str, int], elsewhere: Iterable[str] = ()
    ) -> dict[str, set[str]]:
        """Return what services can connect to: which other ones, each with a port, by name or by any address, and which
        addresses elsewhere.

        AssertionError if a container could write outside of its volumes, has a capability, or asks for names elsewhere.
        """
        containers = self.containers()
        named = {address: address for address in elsewhere}
        named |= {f"{target}:{port}": target for target, port in targets.items()}
        for target, port in targets.items():
            networks = containers[target]["NetworkSettings"]["Networks"].values()
            named |= {f"{network['IPAddress']}:{port}": target for network in networks}

        def look(source: str) -> set[str]:
            told = docker("exec", containers[source]["Id"], "bash", "-c", LOOK, "look", *named).splitlines()
            may = [line for line in told if not line.startswith("reached ")]
            nothing = [f"{kind}:\t{0:016x}" for kind in ("CapPrm", "CapEff", "CapBnd")]
            assert may == [*nothing, "NoNewPrivs:\t1", "refused"], source
            assert containers[source]["HostConfig"]["Dns"] == ["127.0.0.1"], source
            return {named[line.removeprefix("reached ")] for line in told if line.startswith("reached ")} - {source}

        return _at_once(look, sources)

    def health(self) -> dict[str, str]:
        return {s: c["State"].get("Health", {}).get("Status", "") for s, c in self.containers().items()}

    def crash(self, service: str) -> str:
        """Kill a container's main process from outside, as the kernel does when memory is out; return its start time.

        `docker kill` is another thing: Docker takes it for the user's wish and does not restart what it stopped.
        """
        state = self.containers()[service]["State"]
        code = f"import os; os.kill({state['Pid']}, 9)"
        docker("run", "--rm", "--pid=host", "--user=0", f"{self.project}-api", "python", "-c", code)
        return state["StartedAt"]

    def wait_healthy(self, service: str, started_after: str, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state = self.containers()[service]["State"]
            if state["StartedAt"] > started_after and state.get("Health", {}).get("Status") == "healthy":
                return
            time.sleep(1)
        raise AssertionError(f"{service} is not healthy again: {self.compose('logs', '--tail', '40', service)}")

    def airflow(self) -> httpx2.Client:
        """Return a client of Airflow's REST API, logged in as the user airflow."""
        client = httpx2.Client(base_url=self.airflow_url, timeout=180)  # two stacks may be starting on two cores
        token = client.post("/auth/token", json={"username": "airflow", "password": self.password})
        client.headers["Authorization"] = f"Bearer {token.raise_for_status().json()['access_token']}"
        client.base_url = f"{self.airflow_url}/api/v2/"
        return client

    def trigger(self, **params: Any) -> str:
        body = {"logical_date": None, "conf": params}
        return self.airflow().post("dags/modelo_penguin/dagRuns", json=body).raise_for_status().json()["dag_run_id"]

    def task(self, run_id: str, task_id: str) -> dict[str, Any]:
        return self.airflow().get(f"dags/modelo_penguin/dagRuns/{run_id}/taskInstances/{task_id}").json()

    def task_log(self, run_id: str, task_id: str, attempt: int) -> str:
        path = f"dags/modelo_penguin/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?full_content=true"
        return json.dumps(self.airflow().get(path).json()["content"])

    def wait_until(self, what: str, ready: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.1)

    def wait_for_run(self, run_id: str, seconds: float = 300) -> str:
        """Return the state in which a run ends."""
        deadline = time.monotonic() + seconds
        airflow = self.airflow()
        while time.monotonic() < deadline:
            state = airflow.get(f"dags/modelo_penguin/dagRuns/{run_id}").raise_for_status().json()["state"]
            if state in ("success", "failed"):
                return state
            time.sleep(0.5)
        raise AssertionError(f"the run {run_id} is {state} after {seconds} s")

    def wait_served(self, run_id: str, seconds: float = 120) -> dict[str, Any]:
        """Return /model-info once the model of that run serves."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                info = self.api.get("/model-info")
            except httpx2.TransportError:
                continue
            if info.is_success and info.json()["dag_run_id"] == run_id:
                return info.json()
            time.sleep(0.1)
        raise AssertionError(f"the model of {run_id} is not served after {seconds} s: {info.text}")

    def mysql(self, sql: str) -> str:
        # Connected beside the schema, which drop_schema takes away for a moment.
        query = f'MYSQL_PWD="$MYSQL_PASSWORD" mysql -N -h127.0.0.1 -u"$MYSQL_USER" information_schema -e "{sql}"'
        return self.compose("exec", "-T", "mysql", "sh", "-c", query).strip()

    def raw_rows(self) -> int:
        return int(self.mysql("SELECT COUNT(*) FROM mydatabase.penguins_raw"))


def _at_once(look: Callable[[str], T], sources: Iterable[str]) -> dict[str, T]:
    sources = list(sources)
    with ThreadPoolExecutor() as threads:
        return dict(zip(sources, threads.map(look, sources), strict=True))


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None,
    reason="only root, with ip of iproute2, can make a machine outside of this one",
)


@contextmanager
def outside() -> Iterator[str]:
    """Yield the address and port of a server behind this machine, which like any on the internet knows no way to a
    container's own address. A network namespace is that machine.
    """
    name = f"outside-{os.getpid()}"
    # Of the addresses for benchmarks, four of this process's own.
    here = ip_address("198.18.0.1") + os.getpid() % 2**15 * 4
    there = here + 1
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            f"link add {name} type veth peer name eth0 netns {name}",
            f"addr add {here}/30 dev {name}",
            f"link set {name} up",
            f"-n {name} addr add {there}/30 dev eth0",
            f"-n {name} link set eth0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        serve = ["ip", "netns", "exec", name, sys.executable, "-m", "http.server", "--bind", str(there), "80"]
        server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield f"{there}:80"
        finally:
            server.terminate()
            server.wait(timeout=30)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def provide_image(image: str) -> None:
    """Pull an image that is not here. Where its registry cannot be reached, build the stand-in of its name."""
    folder = ROOT / "tests" / "e2e" / "stand_ins" / image.rpartition("/")[2].partition(":")[0]
    for command in (["image", "inspect", image], ["pull", image], ["build", "--tag", image, str(folder)]):
        done = subprocess.run(["docker", *command], check=False, capture_output=True, text=True, timeout=600)
        if done.returncode == 0:
            return
    raise AssertionError(f"{image} can be neither pulled nor built: {done.stderr}")


def docker(*arguments: str) -> str:
    run = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, f"docker {' '.join(arguments)}: {run.stderr}"
    return run.stdout
