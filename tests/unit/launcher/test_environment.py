"""The environment that `make run` gives its processes."""

from __future__ import annotations

import re
import subprocess
import warnings
from base64 import urlsafe_b64decode
from pathlib import Path

import jwt
import yaml

from launcher.environment import environment, shared_settings
from support import ROOT


def test_make_run_and_the_stack_read_one_file_and_repeat_none_of_it(tmp_path: Path) -> None:
    shared = shared_settings()
    assert shared["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] == "0.15"
    here = environment(8080, 8989, tmp_path)
    assert {name: here[name] for name in shared} == shared
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    assert stack["x-airflow-common"]["env_file"] == "config/airflow.env"
    for service in stack["services"].values():
        assert not set(service.get("environment", {})) & set(shared)


def test_secrets_are_made_once_in_the_state_folder(tmp_path: Path) -> None:
    first = environment(8080, 8989, tmp_path)
    assert first["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert (tmp_path / "fernet_key").stat().st_mode & 0o777 == 0o600
    assert environment(8080, 8989, tmp_path) == first


def made_by_the_stack(folder: Path) -> Path:
    """Run the lines of airflow-init that make Airflow's secrets, but for the change of owner, which is root's."""
    (folder / "secrets").mkdir(exist_ok=True)
    init = (ROOT / "config" / "init.sh").read_text()
    lines = re.findall(r"^secret\(\) \{.*?^\}$|^secret secrets/[^\n]*$", init, re.MULTILINE | re.DOTALL)
    script = "\n".join(["set -euo pipefail", "chown() { :; }", "AIRFLOW_UID=0", *lines])
    subprocess.run(["bash", "-c", script], cwd=folder, check=True, timeout=60)
    return folder / "secrets"


def test_the_jwt_secret_is_as_long_as_its_algorithm_asks_and_an_older_one_stays(tmp_path: Path) -> None:
    """Airflow signs with HS512, and PyJWT warns of a key below 64 bytes wherever one is used."""
    stack = made_by_the_stack(tmp_path)
    here = environment(8080, 8989, tmp_path)
    for secret in ((stack / "jwt_secret").read_text().rstrip("\n"), here["AIRFLOW__API_AUTH__JWT_SECRET"]):
        assert "\n" not in secret
        with warnings.catch_warnings(action="error"):
            jwt.encode({}, secret, algorithm="HS512")
    for fernet_key in ((stack / "fernet_key").read_text(), here["AIRFLOW__CORE__FERNET_KEY"]):
        assert len(urlsafe_b64decode(fernet_key)) == 32
    (tmp_path / "jwt_secret").write_text("short")
    (stack / "jwt_secret").write_text("short")
    assert environment(8080, 8989, tmp_path)["AIRFLOW__API_AUTH__JWT_SECRET"] == "short"
    assert (made_by_the_stack(tmp_path) / "jwt_secret").read_text() == "short"


def test_a_secret_that_a_killed_start_left_empty_is_made_anew(tmp_path: Path) -> None:
    environment(8080, 8989, tmp_path)
    (tmp_path / "fernet_key").write_text("")
    assert len(environment(8080, 8989, tmp_path)["AIRFLOW__CORE__FERNET_KEY"]) == 44
