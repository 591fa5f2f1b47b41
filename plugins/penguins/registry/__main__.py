"""The registry's command line: `python -m penguins.registry`.

rich is only imported to print a table: `verify`, `activate`, `rotate-key` and `init` work in an image without it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from penguins.registry import Registry, RegistryError, waiting_versions
from penguins.registry.names import is_from_the_future
from penguins.schema import NAME

if TYPE_CHECKING:
    from rich.console import Console

# What `diff` compares. The gate's verdict names the previous version, and so always differs.
COMPARED = ("params", "metrics", "data", "rows", "classes", "columns", "libraries")
NOT_COMPARED = "metrics.gate."
NOTHING, ABSENT = "-", "absent"
# Wide enough that output for another program is never wrapped.
WIDTH_WHEN_PIPED = 100_000


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code: 1 if a version is bad or missing."""
    parser = argparse.ArgumentParser(prog="python -m penguins.registry", description="Manage the published models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the versions, newest first, and mark what serves and what waits")
    show = commands.add_parser("show", help="show a version's manifest")
    show.add_argument("version", help="a version, or `current` for the serving one")
    diff = commands.add_parser("diff", help="show what differs between two versions")
    for name in ("a", "b"):
        diff.add_argument(name, help="a version, or `current`")
    commands.add_parser("verify", help="check the signature and the checksums of every version")
    commands.add_parser("activate", help="make a version serve: a waiting or an older one").add_argument("version")
    commands.add_parser("rotate-key", help="sign with a new key from now on; what old keys signed stays valid")
    commands.add_parser("init", help="make the keys unless they are there; sign anew what an old release signed")
    chosen = parser.parse_args(arguments)
    registry = Registry.from_environment()
    run: dict[str, Callable[[], int]] = {
        "list": lambda: _list(registry),
        "show": lambda: _show(registry, _resolve(registry, chosen.version)),
        "diff": lambda: _diff(registry, _resolve(registry, chosen.a), _resolve(registry, chosen.b)),
        "verify": lambda: _verify(registry),
        "activate": lambda: _activate(registry, chosen.version),
        "rotate-key": lambda: _rotate_key(registry),
        "init": lambda: _init(registry),
    }
    try:
        return run[chosen.command]()
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 1


def _activate(registry: Registry, version: str) -> int:
    registry.activate(version)
    print(f"{version} serves now")
    return 0


def _rotate_key(registry: Registry) -> int:
    registry.rotate_key()
    print(
        f"{registry.keys.private} is new, and its public key the first line of {registry.keys.public}. Remove an older "
        "line there once no version signed with its key is left."
    )
    return 0


def _init(registry: Registry) -> int:
    for problem in registry.init():
        print(problem)
    return 0


def _verify(registry: Registry) -> int:
    bad, versions, serving = 0, registry.versions(), _current_or_nothing(registry)
    for version in versions:
        try:
            manifest, _ = registry.read(version)
            for name, read in (("report_sha256", registry.report), ("predictions_sha256", registry.predictions)):
                if name in manifest:
                    read(version)
            status = f"accuracy {manifest['metrics']['accuracy']:.4f}  {manifest['dag_run_id']}"
            if is_from_the_future(version):
                status += "  FROM THE FUTURE: no later version is named after it. Was a clock wrong, or is this one?"
        except RegistryError as error:
            bad += 1
            status = f"BAD: {error}"
        print(f"{'*' if version == serving else ' '} {version}  {status}")
    _check_serving(registry, versions)
    return 1 if bad else 0


def _list(registry: Registry) -> int:
    rows, problems, versions, serving = [], [], registry.versions(), _current_or_nothing(registry)
    waiting = waiting_versions(registry)
    for version in versions:
        mark, problem = "*" if version == serving else "waiting" if version in waiting else "", ""
        try:
            m = registry.manifest(version)
            facts = [m["created_at"], f"{m['metrics']['accuracy']:.4f}", f"{m['data']['rows']:,}", m["dag_run_id"]]
        except RegistryError as error:
            facts, problem = [NOTHING] * 4, str(error)
            problems.append(problem)
        rows.append([mark, version, *facts, problem])
    if rows:
        titles = ["serves", "version", "created", "accuracy", "rows", "run", "problem"]
        _print_table(_console(), titles if problems else titles[:-1], rows)
    _check_serving(registry, versions)
    return 1 if problems else 0


def _show(registry: Registry, version: str) -> int:
    manifest, console = registry.manifest(version), _console()
    metrics = dict(manifest["metrics"])
    gate, per_class, matrix = (metrics.pop(name, {}) for name in ("gate", "per_class", "confusion_matrix"))
    facts = {
        "version": version,
        "serves": "yes" if version == _current_or_nothing(registry) else "no",
        "created": manifest["created_at"],
        "run": manifest["dag_run_id"],
        "sha256": manifest["sha256"],
    }
    _print_facts(console, "version", facts)
    _print_facts(console, "metrics", metrics)
    _print_facts(console, "gate", gate)
    if per_class:
        console.print("\nclasses: scores and confusion matrix of the held-out rows", style="bold")
        names = list(per_class)
        rows = [
            [name, *(_format(v) for v in scores.values()), *map(str, predicted)]
            for (name, scores), predicted in zip(per_class.items(), matrix, strict=True)
        ]
        _print_table(console, ["class", *per_class[names[0]], *names], rows)
    _print_facts(console, "params", manifest["params"])
    _print_facts(console, "data", {**manifest["data"], **{f"{k} rows": v for k, v in manifest["rows"].items()}})
    _print_facts(console, "libraries", manifest["libraries"])
    console.print("\ncolumns", style="bold")
    _print_table(console, ["name", "kind", "accepted", "null"], [_column(c) for c in manifest["columns"]])
    files = sorted((registry.root / version).iterdir())
    _print_facts(console, "files", {file.name: f"{file.lstat().st_size:,} bytes" for file in files})
    return 0


def _diff(registry: Registry, a: str, b: str) -> int:
    manifests, console = [registry.manifest(version) for version in (a, b)], _console()
    before, after = map(_facts, manifests)
    rows = [
        [name, _format(before.get(name, ABSENT)), _format(after.get(name, ABSENT)), _change(before, after, name)]
        for name in dict.fromkeys([*before, *after])
        if before.get(name, ABSENT) != after.get(name, ABSENT)
    ]
    if rows:
        _print_table(console, ["", a, b, "change"], rows)
    else:
        console.print(f"{a} and {b} differ only in time and run: the pickles are the same.")
    if all("predictions_sha256" in manifest for manifest in manifests):
        console.print(f"\nCompared {_compared(registry, a, b)}.")
    return 0


def _compared(registry: Registry, a: str, b: str) -> str:
    from penguins.evaluation.predictions import Predictions, compare_predictions

    old, new = (Predictions.from_bytes(registry.predictions(version)) for version in (a, b))
    return compare_predictions(new, old)[0].sentence(b, a)


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is compared, flattened to dotted names."""
    columns = {c["name"]: {"place": place, **c} for place, c in enumerate(manifest["columns"], start=1)}
    nested = {name: manifest[name] for name in COMPARED} | {"columns": columns, "pickle sha256": manifest["sha256"]}
    return {name: value for name, value in _flat(nested) if not name.startswith(NOT_COMPARED)}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _change(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    old, new = before.get(name), after.get(name)
    if not (_is_number(old) and _is_number(new)):
        return ""
    return f"{new - old:+.6g}"


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(column: Mapping[str, Any]) -> list[str]:
    accepted = column.get("values") or [
        f"{column['minimum']:.15g} to {column['maximum']:.15g} {column['unit']}".rstrip()
    ]
    return [column["name"], column["kind"], ", ".join(accepted), "no" if column["required"] else "yes"]


def _format(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_format, value)) if isinstance(value, list | tuple) else str(value)


def _resolve(registry: Registry, name: str) -> str:
    """Return the version that a name refers to, or raise RegistryError with the existing ones."""
    versions = registry.versions()
    version = registry.current() if name == "current" else name
    if version not in versions:
        reason = f"it must be `current` or one of {', '.join(versions)}" if versions else "none was published yet"
        what_to_do = "`python -m penguins.registry list` shows them" if versions else f"trigger the DAG {NAME}"
        raise RegistryError(f"there is no version {version[:80]!r} in {registry.root}: {reason}; {what_to_do}.")
    return version


def _check_serving(registry: Registry, versions: Sequence[str]) -> None:
    if (current := registry.current()) not in versions:
        raise RegistryError(f"the serving version {current} is missing")


def _current_or_nothing(registry: Registry) -> str:
    try:
        return registry.current()
    except RegistryError:
        return ""


def _console() -> Console:
    from rich.console import Console

    # A manifest's values are text, not markup: "[red]" is printed as it is.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_WHEN_PIPED
    return console


def _print_table(console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title == "version")
    for row in rows:
        table.add_row(*row[: len(titles)])
    console.print(table)


def _print_facts(console: Console, title: str, facts: Mapping[str, Any]) -> None:
    from rich.table import Table

    console.print(f"\n{title}", style="bold")
    table = Table.grid(padding=(0, 2))
    for name, value in _flat(facts):
        table.add_row(f"  {name}", _format(value))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
