"""The two READMEs say the same, and what they name is there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from app.main import create_app

ROOT = Path(__file__).parents[2]
ENGLISH, SPANISH = (ROOT / name for name in ("README.md", "README.es.md"))
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(readme: Path) -> list[str]:
    """Return the fenced lines without their comments, which are translated."""
    lines = "".join(FENCE.findall(readme.read_text(encoding="utf-8"))).splitlines()
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def code(readme: Path) -> list[str]:
    """Return what stands between backticks in the text: paths, endpoints, names, values."""
    return sorted(re.findall(r"`([^`\n]+)`", FENCE.sub("", readme.read_text(encoding="utf-8"))))


def pictures_and_addresses(readme: Path) -> list[str]:
    text = readme.read_text(encoding="utf-8")
    return re.findall(r"!\[[^]]+\]\(([^)]+)\)", text) + re.findall(r"https?://[\w.:/]*\w", text)


@pytest.mark.parametrize("named", [commands, code, pictures_and_addresses])
def test_both_readmes_name_the_same(named) -> None:  # type: ignore[no-untyped-def]
    assert named(SPANISH) == named(ENGLISH)
    assert len(named(ENGLISH)) > 5


def test_both_readmes_have_the_same_sections_and_tables() -> None:
    shape = [
        [re.sub(r"[^#|]", "", line) for line in readme.read_text(encoding="utf-8").splitlines() if line[:1] in "#|"]
        for readme in (ENGLISH, SPANISH)
    ]
    assert shape[0] == shape[1]


def test_pictures_and_files_are_there() -> None:
    for picture in re.findall(r"\((images/[^)]+)\)", ENGLISH.read_text(encoding="utf-8")):
        assert (ROOT / picture).stat().st_size > 10_000, picture
    made = {"model.pkl", "manifest.json", ".local/", "models/<version>/"}
    here = ("", "plugins/penguins/", "app/", "config/", "tests/")
    files = [c for c in code(ENGLISH) if re.fullmatch(r"[\w./<>-]+(/|\.(py|csv|txt|toml|yaml|json|sh))", c)]
    assert len(files) > 20
    for file in set(files) - made:
        assert any((ROOT / folder / file).exists() for folder in here), file


def test_endpoints_are_those_of_the_service() -> None:
    named = {span for span in code(ENGLISH) if re.match(r"(GET|POST) /", span)} - {"GET /"}
    served = {
        f"{method.upper()} {path}" for path, methods in create_app().openapi()["paths"].items() for method in methods
    }
    assert named == served


def test_make_targets_are_there() -> None:
    text = ENGLISH.read_text(encoding="utf-8")
    for target in set(re.findall(r"^make (\w+)", text, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", text)):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_every_direct_dependency_has_its_line() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    table = ENGLISH.read_text(encoding="utf-8").partition("## Dependencies")[2]
    said = table.replace("-mysql, -sqlite", "-mysql, apache-airflow-providers-sqlite")
    for dependency in (d for group in groups.values() for d in group if isinstance(d, str)):
        name = re.split(r"[=><]", dependency)[0]
        assert re.search(rf"(^\| |, ){re.escape(name)}[, ]", said, re.MULTILINE), name
