"""What the images and the local environment install: Airflow's own versions, and the same ones everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ["3.11", "3.12", "3.13"]
CONSTRAINTS = "airflow-constraints.txt"
DEV = "requirements-dev.txt"


def versions(file: str, python: str) -> dict[str, str]:
    """Return package to version, as `file` pins them for this Python."""
    lines = re.findall(r"^\w[^\\\n]*", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate(here)]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


@pytest.mark.parametrize("python", PYTHONS)
def test_the_dag_installs_what_airflow_is_published_with(python: str) -> None:
    dag, airflow = versions("requirements.txt", python), versions(CONSTRAINTS, python)
    shared = dag.keys() & airflow.keys()
    assert {"click", "numpy", "pandas", "pyarrow", "python-dateutil", "scikit-learn"} <= shared
    assert {name: dag[name] for name in shared} == {name: airflow[name] for name in shared}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", ["requirements.txt", "app/requirements.txt"])
def test_an_image_installs_what_the_local_environment_has(file: str, python: str) -> None:
    image, local = versions(file, python), versions(DEV, python)
    assert {"numpy", "pandas", "scikit-learn"} <= image.keys()
    assert image.items() <= local.items()


def test_the_constraints_are_those_of_this_airflow() -> None:
    release = versions(DEV, "3.13")["apache-airflow"].removeprefix("==")
    head = (ROOT / CONSTRAINTS).read_text(encoding="utf-8")
    assert head.startswith(f"# For Airflow {release}, "), "its first lines say how it is made for another"
    assert f"FROM apache/airflow:{release}-python3.13\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
