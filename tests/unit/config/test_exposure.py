"""What airflow-init says of an address that others reach."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import ROOT

WARNED, REFUSED = "asks nobody for a key", "Set AIRFLOW_PASSWORD in .env"
CASES = [
    # BIND_ADDRESS, AIRFLOW_PASSWORD, API_KEYS_FILE: warned, refused
    ({}, False, False),
    ({"BIND_ADDRESS": "127.0.0.1"}, False, False),
    ({"BIND_ADDRESS": "127.1.2.3", "AIRFLOW_PASSWORD": "airflow"}, False, False),
    ({"BIND_ADDRESS": "localhost"}, False, False),
    ({"BIND_ADDRESS": "[::1]"}, False, False),
    ({"BIND_ADDRESS": "", "AIRFLOW_PASSWORD": ""}, False, False),
    ({"BIND_ADDRESS": "0.0.0.0"}, True, True),
    ({"BIND_ADDRESS": "::"}, True, True),
    ({"BIND_ADDRESS": "10.0.0.7", "API_KEYS_FILE": ".local/api_keys"}, False, True),
    ({"BIND_ADDRESS": "127.0.0.1.example.org", "AIRFLOW_PASSWORD": "airflow"}, True, True),
    ({"BIND_ADDRESS": "10.0.0.7", "AIRFLOW_PASSWORD": "another one"}, True, False),
    ({"BIND_ADDRESS": "10.0.0.7", "AIRFLOW_PASSWORD": "another one", "API_KEYS_FILE": "x"}, False, False),
]


@pytest.mark.parametrize(("env", "warned", "refused"), CASES)
def test_others_need_a_password_of_ones_own_and_a_key_is_advised(
    env: dict[str, str], warned: bool, refused: bool
) -> None:
    command = [sys.executable, "-S", str(ROOT / "config" / "exposure.py")]
    done = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=60)
    assert (WARNED in done.stderr, REFUSED in done.stderr) == (warned, refused), done.stderr
    assert done.returncode == refused
    assert done.stdout == ""
    assert "another one" not in done.stderr
    if warned or refused:
        assert env["BIND_ADDRESS"] in done.stderr
