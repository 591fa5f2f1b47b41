"""How often the gate is wrong: good models that it refuses, and degraded ones that it passes.

`PYTHONPATH=plugins python -m benchmarks.gate [SEEDS [CHANGED [ROWS]]]` runs SEEDS good retrains and CHANGED of each
degraded kind, on the schema's own table or on ROWS generated rows. `GATE=1 make bench` measures three tables in full.

Each trial trains on a changed table, with its own seed for split and forest. It is judged against a version trained on
the unchanged table. Even what the data check would catch (a tenth of the rows) is judged by the models alone.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.generate import generate
from benchmarks.servers import ROOT
from penguins.data.source import check_source
from penguins.inference import unpickle
from penguins.registry import Keys, Registry
from penguins.schema import CSV_NAME, FEATURES, MIN_ACCURACY, TABLE, TARGET

if TYPE_CHECKING:
    from penguins.evaluation.gate import Verdict

BASES = 5  # versions to judge against, each with its own seed
TREES, MAX_SAMPLES, TEST_SIZE, MAX_ACCURACY_DROP = 100, 100_000, 0.2, 0.02
NOISE = (0.05, 0.1, 0.2, 0.3)
LOANS_PAGE = ROOT / "docs" / "your-own-table.md"

Change = Callable[[pa.Table, pa.Table, np.random.Generator], pa.Table]


def as_it_is(table: pa.Table, more: pa.Table, random: np.random.Generator) -> pa.Table:  # noqa: ARG001
    return table


def a_tenth_more(table: pa.Table, more: pa.Table, random: np.random.Generator) -> pa.Table:
    return pa.concat_tables([table, more.take(random.permutation(more.num_rows)[: table.num_rows // 10])])


def random_labels(
    table: pa.Table,
    more: pa.Table,  # noqa: ARG001
    random: np.random.Generator,
    share: float,
) -> pa.Table:
    column = table[TARGET.name].combine_chunks()
    codes = column.indices.to_numpy().copy()
    hit = random.random(len(codes)) < share
    codes[hit] = random.integers(len(TARGET.values), size=int(hit.sum()))
    labels = pa.DictionaryArray.from_arrays(pa.array(codes), column.dictionary)
    return table.set_column(table.column_names.index(TARGET.name), TARGET.name, labels)


def shuffled(table: pa.Table, more: pa.Table, random: np.random.Generator, name: str) -> pa.Table:  # noqa: ARG001
    column = table[name].combine_chunks().take(pa.array(random.permutation(table.num_rows)))
    return table.set_column(table.column_names.index(name), name, column)


def a_tenth(table: pa.Table, more: pa.Table, random: np.random.Generator) -> pa.Table:  # noqa: ARG001
    return table.take(random.permutation(table.num_rows)[: table.num_rows // 10])


def kinds() -> dict[str, tuple[Change, int]]:
    """Return, by name, how a trial's table is changed and how many trees its forest has."""
    return {
        "another seed": (as_it_is, TREES),
        "another seed, 10 % more rows": (a_tenth_more, TREES),
        **{f"{share:.0%} random labels": (partial(random_labels, share=share), TREES) for share in NOISE},
        **{f"{c.name} shuffled": (partial(shuffled, name=c.name), TREES) for c in FEATURES},
        "a tenth of the rows": (a_tenth, TREES),
        "one tree": (as_it_is, 1),
        "three trees": (as_it_is, 3),
    }


GOOD = 2  # this many kinds, the first ones, should pass


def _fit(train: pa.Table, trees: int, seed: int) -> Any:
    from penguins.training.pipeline import build_pipeline, fit

    sizes = {"n_estimators": trees, "max_samples": MAX_SAMPLES, "rows": train.num_rows}
    return unpickle(fit(build_pipeline(random_state=seed, **sizes), train))


def _registry(root: Path) -> Registry:
    return Registry(root / "models", Keys(root / "key", root / "key.pub"))


def _publish_base(folder: Path, number: int) -> None:
    from penguins.evaluation.evaluate import evaluate
    from penguins.training.pipeline import split

    root = folder / f"base-{number}"
    root.mkdir()
    registry = _registry(root)
    registry.init()
    train, test = split(pq.read_table(folder / "table.parquet"), test_size=TEST_SIZE, random_state=number)
    pickled = pickle.dumps(_fit(train, TREES, number))
    facts = evaluate(pickled, train, test, registry=registry, random_state=number, min_accuracy=0, max_accuracy_drop=1)
    predictions, _ = facts.pop("predictions"), facts.pop("points")
    data = {"sha256": "", "rows": train.num_rows + test.num_rows}
    registry.publish(pickled, {**facts, "dag_run_id": "bench", "params": {}, "data": data}, predictions=predictions)


def trial(folder: Path, kind: str, number: int) -> dict[str, Any]:
    """Train and judge one model. `true` is its accuracy on unchanged rows that it was not trained on."""
    from penguins.evaluation.comparison import compare_with_serving
    from penguins.evaluation.gate import judge
    from penguins.evaluation.scores import predict_unseen, score
    from penguins.training.pipeline import split

    seed = 1000 + number
    change, trees = kinds()[kind]
    clean = pq.read_table(folder / "table.parquet")
    more = pq.read_table(folder / "more.parquet")
    table = change(clean, more, np.random.default_rng(seed))
    train, test = split(table, test_size=TEST_SIZE, random_state=seed)
    pipeline = _fit(train, trees, seed)
    unseen, _ = predict_unseen(pipeline, train, test, seed)
    root = folder / f"base-{number % BASES}"
    baseline = compare_with_serving(_registry(root), unseen)
    verdict: Verdict = judge(unseen.accuracy, baseline, min_accuracy=MIN_ACCURACY, max_accuracy_drop=MAX_ACCURACY_DROP)
    # Fitted again, on the changed rows of a split of the clean table. Scored on the other rows, unchanged.
    place = np.arange(clean.num_rows)
    marked = clean.append_column("place", pa.array(place))
    a, b = split(marked, test_size=TEST_SIZE, random_state=seed)
    if table.num_rows == clean.num_rows:
        fitted = _fit(table.take(a["place"].to_numpy()), trees, seed)
    else:
        fitted, b = pipeline, _without(b, train)
    accuracy = score(fitted, b.drop_columns("place"))["accuracy"] if b.num_rows else float("nan")
    return {
        "passed": verdict.passed,
        "outcome": verdict.outcome,
        "note": verdict.note,
        "rows": baseline.comparison.rows if baseline.comparison else 0,
        "difference": baseline.comparison.difference if baseline.comparison else 0.0,
        "true": accuracy,
    }


def _without(rows: pa.Table, trained: pa.Table) -> pa.Table:
    from penguins.training.rows import row_keys

    return rows.filter(pa.array(~np.isin(row_keys(rows), row_keys(trained))))


def measure(folder: Path, csv: Path, *, seeds: int, changed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return how many trials of each kind were refused, on a file that fits the schema."""
    _write_tables(folder, csv)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_publish_base, [folder] * BASES, range(BASES)))
        found: dict[str, Any] = {}
        for place, kind in enumerate(kinds()):
            count = seeds if place < GOOD else changed
            trials = list(pool.map(trial, [folder] * count, [kind] * count, range(count)))
            found[kind] = {
                "trials": count,
                "refused": sum(not t["passed"] for t in trials),
                "worse": sum(t["outcome"] == "worse" for t in trials),
                "warned": sum(bool(t["note"]) for t in trials),
                "rows": median(t["rows"] for t in trials),
                "difference": mean(t["difference"] for t in trials),
                "true": float(np.nanmean([t["true"] for t in trials])),
            }
            say(f"gate: {kind}: {found[kind]['refused']} of {count} refused")
    return found


def _write_tables(folder: Path, csv: Path) -> None:
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    from penguins.data.cleaning import clean
    from penguins.data.databases import open_warehouse

    connection = {"conn_type": "sqlite", "host": str(folder / "warehouse.db")}
    os.environ["AIRFLOW_CONN_BENCH"] = json.dumps(connection)
    logging.disable(logging.WARNING)  # each of a thousand fits would log that it is done
    warehouse = open_warehouse(SqliteHook(sqlite_conn_id="bench"))
    more = folder / "more.csv"
    generate(max(check_source(csv, TEST_SIZE).rows, 100), more, seed=1)
    for path, name in ((csv, "table"), (more, "more")):
        warehouse.create_raw_table()
        source = check_source(path, TEST_SIZE)
        warehouse.load(source)
        pq.write_table(clean(warehouse.read(source)), folder / f"{name}.parquet")


def measure_loans(folder: Path, *, seeds: int, changed: int) -> dict[str, Any]:
    """Measure in a copy of the project that declares the table of docs/your-own-table.md."""
    copy, page = folder / "copy", LOANS_PAGE.read_text(encoding="utf-8")
    for part in ("benchmarks", "plugins", "dags"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    script, declaration = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    subprocess.run([sys.executable, "-c", script], cwd=copy, check=True, timeout=60)
    schema = copy / "plugins" / "penguins" / "schema.py"
    lines = re.compile(r"(# -+ your own table: replace from here\n).*(# -+ to here\n)", re.DOTALL)
    schema.write_text(lines.sub(lambda found: f"{found[1]}\n{declaration}\n{found[2]}", schema.read_text("utf-8")))
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate", str(seeds), str(changed), "--json"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy / "plugins")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3600,
    )
    return json.loads(run.stdout.splitlines()[-1])


def run(folder: Path, *, full: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure on the penguins. With `full`, run all trials, also on the loans and on 100,000 generated rows."""
    seeds, changed = (100, 50) if full else (10, 5)
    parts = {name: folder / name for name in ("penguins", "loans", "generated")}
    for part in parts.values():
        part.mkdir()
    csv = ROOT / "dags" / CSV_NAME
    found = {"penguins": measure(parts["penguins"], csv, seeds=seeds, changed=changed, say=say)}
    if full:
        say("gate: the loans of docs/your-own-table.md")
        found["loans"] = measure_loans(parts["loans"], seeds=seeds, changed=changed)
        generate(100_000, parts["generated"] / "rows.csv")
        # A trial takes ten seconds there.
        found["100,000 rows"] = measure(
            parts["generated"], parts["generated"] / "rows.csv", seeds=20, changed=10, say=say
        )
    return found


def goals(measured: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return each measured share with its goal."""
    results = list(measured["penguins"].items())
    good = [found for _, found in results[:GOOD]]
    noisy = [found for kind, found in results if "random labels" in kind and not kind.startswith("5%")]
    return {
        "share of good retrains that the gate refuses": (
            sum(f["refused"] for f in good) / sum(f["trials"] for f in good),
            "at most 0.02",
        ),
        "share of models on 10 % or more random labels that it refuses": (
            sum(f["refused"] for f in noisy) / sum(f["trials"] for f in noisy),
            "at least 0.95",
        ),
    }


def table(measured: dict[str, Any]) -> str:
    """Return refused, warned and the true drop of each kind, table by table."""
    lines = []
    for name, found in measured.items():
        base = found["another seed"]["true"]
        lines.append(f"\n{'gate: ' + name:<32}{'refused':>12}{'warned':>8}{'rows':>9}{'compared':>10}{'true drop':>11}")
        for kind, result in found.items():
            refused = f"{result['refused']} of {result['trials']}"
            lines.append(
                f"{kind:<32}{refused:>12}{result['warned']:>8}{result['rows']:>9,.0f}{result['difference']:>+10.4f}"
                f"{base - result['true']:>+11.4f}"
            )
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> None:
    as_json = "--json" in arguments
    numbers = [int(a) for a in arguments if a != "--json"]
    seeds, changed, rows = [*numbers, *(100, 50, 0)[len(numbers) :]]
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        csv = ROOT / "dags" / CSV_NAME
        if rows:
            csv = Path(folder, "rows.csv")
            generate(rows, csv)
        found = measure(
            Path(folder), csv, seeds=seeds, changed=changed, say=lambda text: print(text, file=sys.stderr, flush=True)
        )
    print(json.dumps(found) if as_json else table({TABLE: found}))


if __name__ == "__main__":
    main(sys.argv[1:])
