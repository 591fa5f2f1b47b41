"""Who may look at Grafana: what start.sh makes of BIND_ADDRESS and GRAFANA_PASSWORD."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from config.exposure import is_loopback
from support import ROOT

START = ROOT / "monitoring" / "grafana" / "start.sh"
HERE = ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"]
ELSEWHERE = ["0.0.0.0", "10.0.0.7", "::", "penguins.example.org", "127.0.0.1.example.org", "127.example.org"]


def start(**env: str) -> tuple[dict[str, str], str]:
    """Return the environment that Grafana gets, and what was said."""
    command = ["sh", str(START), "env", "-0"]
    done = subprocess.run(
        command, env={"PATH": os.environ["PATH"], **env}, check=True, capture_output=True, text=True, timeout=60
    )
    return dict(line.split("=", 1) for line in done.stdout.split("\0") if line), done.stderr


@pytest.mark.parametrize("address", [*HERE, *ELSEWHERE])
def test_without_a_password_one_looks_from_this_machine_alone_and_nobody_is_admin(address: str) -> None:
    assert is_loopback(address) == (address in HERE)
    (given, said), (again, _) = (start(BIND_ADDRESS=address) for _ in range(2))
    assert given["GF_AUTH_ANONYMOUS_ENABLED"] == str(address in HERE).lower()
    for secret in ("GF_SECURITY_ADMIN_PASSWORD", "GF_SECURITY_SECRET_KEY"):
        assert len(given[secret]) >= 32
        assert given[secret] != again[secret]
    assert ("Set GRAFANA_PASSWORD in .env" in said) == (address in ELSEWHERE)
    assert given["GF_SECURITY_ADMIN_PASSWORD"] not in said


def test_a_password_of_ones_own_is_the_admins() -> None:
    given, said = start(BIND_ADDRESS="10.0.0.7", GRAFANA_PASSWORD="a b$c'd")
    assert given["GF_SECURITY_ADMIN_PASSWORD"] == "a b$c'd"
    assert given["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert said == ""


def test_prometheus_which_asks_nobody_is_never_published_beyond_this_machine() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.monitoring.yaml").read_text())["services"]
    assert services["prometheus"]["ports"] == ["127.0.0.1:${PROMETHEUS_PORT:-9090}:9090"]
    assert "ports" not in services["statsd"]
    assert services["grafana"]["ports"][0].startswith("${BIND_ADDRESS:-127.0.0.1}:")
