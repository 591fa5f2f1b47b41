"""The READMEs and docs/: both languages say the same, and what they name is there."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from app.main import create_app

ROOT = Path(__file__).parents[3]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TRANSLATED = [ROOT / "README.es.md", *sorted((ROOT / "docs").glob("*.es.md"))]
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MAX_README_LINES = 180
MAX_CELL_CHARS = 160  # characters: a longer one is no table any more
# Written at run time, or by the reader.
MADE = {
    "model.pkl",
    "manifest.json",
    "report.html",
    "predictions.parquet",
    ".local/",
    "models/<version>/",
    "models/runs/",
}
MADE |= {"docker-compose.<name>.yaml", "models/incoming/", "make_loans.py"}
MADE |= {"dags/retrain_weekly.py", "dags/retrain_on_new_file.py", "dags/incoming/"}
MADE |= {"incoming/penguins.csv", "dags/incoming/penguins.csv", "../models/incoming/penguins.csv"}


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".es.md", ".md"))


def commands(page: Path) -> list[str]:
    """Return the fenced lines without their comments, which are translated."""
    return [re.sub(r"\s+# .*", "", line) for line in "".join(FENCE.findall(text(page))).splitlines()]


def code(page: Path) -> list[str]:
    """Return what stands between backticks in the text: paths, endpoints, names, values."""
    return sorted(re.findall(r"`([^`]+)`", FENCE.sub("", text(page))))


def links(page: Path) -> list[str]:
    """Return pictures, pages and addresses; a page in its translation, where there is one, counts as the page."""
    found = [target for target in re.findall(r"\]\(([^)]+)\)", text(page)) if not re.search(r"\.es\.md$|^http", target)]
    translated = [re.sub(r"\.es\.md$", ".md", t) for t in re.findall(r"\]\(([^)]+\.es\.md)\)", text(page))]
    own = english(page).name  # each links to the other language
    addresses = re.findall(r"https?://[\w.:/]*\w", text(page))
    return sorted(target for target in found + translated + addresses if Path(target).name != own)


def shape(page: Path) -> list[str]:
    """Return the headings' levels and the tables' columns."""
    return [re.sub(r"[^#|]", "", line) for line in FENCE.sub("", text(page)).splitlines() if line[:1] in "#|"]


@pytest.mark.parametrize("page", TRANSLATED, ids=names(TRANSLATED))
def test_both_languages_say_the_same(page: Path) -> None:
    for said in (commands, code, links, shape):
        assert said(page) == said(english(page)), said.__name__
    assert code(page)


def test_the_readme_and_the_pages_it_promises_in_spanish_are_there() -> None:
    assert set(names(TRANSLATED)) >= {"README.es.md", "docs/tour.es.md"}
    for page in (README, ROOT / "README.es.md"):
        assert len(text(page).splitlines()) <= MAX_README_LINES, page.name
        cells = [cell.strip() for line in text(page).splitlines() if line[:1] == "|" for cell in line.split(" | ")]
        assert max(map(len, cells)) <= MAX_CELL_CHARS, max(cells, key=len)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_linked_pages_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text(page)):
        if not target.startswith("http"):
            assert (page.parent / target).stat().st_size > 500, target
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", text(page)):
        headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page.parent / target if target else page)), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_named_files_are_there(page: Path) -> None:
    here = (
        "",
        "dags/",
        "plugins/penguins/",
        "plugins/penguins/data/",
        "plugins/penguins/evaluation/",
        "plugins/penguins/registry/",
        "plugins/penguins/training/",
        "app/",
        "app/serving/",
        "config/",
        "tests/",
        "docs/",
    )
    files = {c for c in code(page) if re.fullmatch(r"[\w./<>-]+(/|\.(py|csv|txt|toml|yaml|json|sh|md|html))", c)}
    for file in files - MADE:
        assert any((ROOT / folder / file).exists() for folder in here), file


def test_files_are_named_at_all() -> None:
    assert sum(len(re.findall(r"`[\w./-]+\.py`", text(page))) for page in PAGES) > 40


def test_endpoints_are_those_of_the_service() -> None:
    page = ROOT / "docs" / "api.md"
    named, shown = ({c for c in code(p) if re.match(r"(GET|POST) /", c)} - {"GET /"} for p in (page, README))
    served = {
        f"{method.upper()} {path}" for path, methods in create_app().openapi()["paths"].items() for method in methods
    }
    assert named == served >= shown
    assert len(shown) > 5


def test_make_targets_are_there() -> None:
    said = "".join(map(text, PAGES))
    targets = set(re.findall(r"^(?:\w+=\w+ )*make (\w+)", said, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", said))
    assert targets >= {"run", "test", "e2e", "lint", "bench", "lock"}
    subprocess.run(["make", "--dry-run", *targets], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_every_direct_dependency_has_its_line() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    said = text(ROOT / "docs" / "dependencies.md").replace("-mysql, -sqlite", "-mysql, apache-airflow-providers-sqlite")
    for dependency in (d for group in groups.values() for d in group if isinstance(d, str)):
        name = re.split(r"[=><]", dependency)[0]
        assert re.search(rf"(^\| |, ){re.escape(name)}[, ]", said, re.MULTILINE), name
