"""The rooms stand in the order in which the data goes: of two of them, and of two modules, one imports the other."""

from __future__ import annotations

import ast
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(file.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for package in (ROOT / "plugins" / "penguins", ROOT / "app")
    for file in package.rglob("*.py")
}


def room(module: str) -> str:
    """Return app.serving for what is in it. A module beside the rooms, and a command line, are rooms of their own."""
    return module if module.endswith("__main__") else ".".join(module.split(".")[:2])


def itself(module: str) -> str:
    return module


def imports(file: Path) -> set[str]:
    """Return our modules that a file imports: at its top, for its types alone, or in a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= named & SOURCES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & SOURCES.keys()


@pytest.mark.parametrize("part", [room, itself])
def test_no_two_import_each_other(part: Callable[[str], str]) -> None:
    uses: dict[str, set[str]] = {}
    for module, file in SOURCES.items():
        taken = {part(imported) for imported in imports(file)}
        uses.setdefault(part(module), set()).update(taken - {part(module), "app", "penguins"})
    assert len(uses) > 12
    assert "penguins.inference" in uses["penguins.evaluation" if part is room else "penguins.evaluation.evaluate"]
    list(TopologicalSorter(uses).static_order())  # CycleError names a circle


def test_the_model_server_knows_of_no_annex() -> None:
    known = {"app.errors", "penguins.compatibility", "penguins.inference", "penguins.registry"}
    assert imports(SOURCES["app.serving.model_server"]) == known
