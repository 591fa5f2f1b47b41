"""The rooms stand in the order in which the data goes: none imports one that imports it in turn."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPTH = 2  # app.serving and penguins.data are rooms, and so is a module beside them


def room(module: str) -> str:
    return ".".join(module.split(".")[:DEPTH])


def imported(tree: ast.Module) -> set[str]:
    """Return the modules that a module imports when it is imported itself."""
    found: set[str] = set()
    for node in tree.body:  # not what stands under `if TYPE_CHECKING:` or in a function
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_no_two_rooms_import_each_other() -> None:
    uses: dict[str, set[str]] = {}
    for package in (ROOT / "plugins" / "penguins", ROOT / "app"):
        for file in package.rglob("*.py"):
            module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
            # A command line stands outside of its room, and takes what it likes.
            own = module if module.endswith("__main__") else room(module.removesuffix(".__init__"))
            own_package = package.name
            modules = {room(m) for m in imported(ast.parse(file.read_text())) if m.startswith(("app.", "penguins."))}
            uses.setdefault(own, set()).update(modules - {own, own_package})
    assert len(uses) > 12
    assert {"penguins.schema", "penguins.inference"} <= uses["penguins.evaluation"]
    list(TopologicalSorter(uses).static_order())  # CycleError names a circle
