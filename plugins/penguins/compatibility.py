"""Whether a version's pickle fits what is here: the libraries that made it, and the table that it was trained on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from textwrap import shorten
from typing import Any

from penguins.schema import FEATURES, NAME, TARGET

# A pickle can only be trusted with the library versions that made it.
LIBRARIES = ("scikit-learn", "numpy", "pandas")


class ModelError(RuntimeError):
    """The model cannot be trusted: other libraries, no model at all, or predictions that differ from training."""


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of each library that the pickle needs."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def check_libraries(manifest: Mapping[str, Any]) -> None:
    """Raise ModelError if a library's version differs from the one that trained the manifest's model."""
    here = library_versions()
    differing = [
        f"{name} {manifest['libraries'].get(name)} (here {here[name]})"
        for name in LIBRARIES
        if manifest["libraries"].get(name) != here[name]
    ]
    if differing:
        raise ModelError(f"trained with {', '.join(differing)}. Train again, or install those versions.")


def check_columns(manifest: Mapping[str, Any]) -> None:
    """Raise ModelError if the manifest's model was trained on another table than the imported schema's.

    Ranges and descriptions may change. A pipeline is fitted to names, order, kinds, categories and classes.
    """
    trained = [_describe(c["name"], c["kind"], c.get("values", ())) for c in manifest["columns"]]
    here = [_describe(c.name, type(c).__name__.lower(), getattr(c, "values", ())) for c in FEATURES]
    if trained == here and set(manifest["classes"]) <= set(TARGET.values):
        return
    trained += [f"the class {name}" for name in manifest["classes"]]
    here += [f"the class {name}" for name in TARGET.values]
    only_trained, only_here = (
        shorten(", ".join(what for what in these if what not in those), 300, placeholder=" …")
        or "nothing, or a different order"
        for these, those in ((trained, here), (here, trained))
    )
    raise ModelError(
        "trained on another table than the one with which this service was started. "
        f"Only in the model: {only_trained}. Only in the schema: {only_here}. "
        "If plugins/penguins/schema.py was changed since, start the service again: `make run`, or "
        f"`docker compose up --build -d`. Otherwise trigger the DAG {NAME}."
    )


def _describe(name: str, kind: str, values: Sequence[str]) -> str:
    return f"{name} ({' '.join([kind, *values])})"
