"""The registry's command line: what it prints, and its exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penguins.evaluation.predictions import Predictions
from penguins.registry import PROJECT, Registry
from penguins.registry.__main__ import main

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]
Command = Callable[..., tuple[int, str, str]]
ABSENT = "20260101T000000Z-0123abcd"


def environment_of(registry: Registry) -> dict[str, str]:
    return {
        "PYTHONPATH": str(PROJECT / "plugins"),
        "MODELS_DIR": str(registry.root),
        "MODEL_SIGNING_KEY_FILE": str(registry.keys.private),
    }


@pytest.fixture
def command(registry: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line on the registry; return exit code, output, errors."""
    monkeypatch.setenv("MODELS_DIR", str(registry.root))
    monkeypatch.setenv("MODEL_SIGNING_KEY_FILE", str(registry.keys.private))

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        return (code, *capsys.readouterr())

    return command


@pytest.fixture
def published(registry: Registry, trained: Trained) -> Callable[..., str]:
    """Publish the trained model with other facts, and return the version."""

    def published(**facts: Any) -> str:
        return registry.publish(trained[0], {**trained[1], **facts})["version"]

    return published


def cells(output: str) -> list[list[str]]:
    """Return the words of each line."""
    return [line.split() for line in output.splitlines()]


# list


def test_list_prints_each_version_newest_first_with_a_star_on_the_serving_one(
    registry: Registry, publish: Publish, command: Command
) -> None:
    older, newer = publish(), publish()
    registry.activate(older["version"])
    code, output, errors = command("list")
    accuracy = f"{older['metrics']['accuracy']:.4f}"
    assert (code, errors) == (0, "")
    assert cells(output) == [
        ["serves", "version", "created", "accuracy", "rows", "run"],
        [newer["version"], newer["created_at"], accuracy, "344", "test"],
        ["*", older["version"], older["created_at"], accuracy, "344", "test"],
    ]


def test_list_marks_what_waits_and_activate_makes_it_serve(
    registry: Registry, trained: Trained, publish: Publish, command: Command
) -> None:
    serving = publish()["version"]
    waiting = registry.publish(*trained, activate=False)["version"]
    assert [line[:2] for line in cells(command("list")[1])[1:]] == [["waiting", waiting], ["*", serving]]
    assert command("activate", waiting) == (0, f"{waiting} serves now\n", "")
    assert cells(command("list")[1])[1][:2] == ["*", waiting]


def test_list_says_how_the_first_version_serves_if_it_waits(
    registry: Registry, trained: Trained, command: Command
) -> None:
    waiting = registry.publish(*trained, activate=False)["version"]
    code, output, errors = command("list")
    assert (code, cells(output)[1][:2]) == (1, ["waiting", waiting])
    assert f"`python -m penguins.registry activate {waiting}`" in errors


def test_list_says_what_is_wrong_with_a_version_and_fails(
    registry: Registry, publish: Publish, command: Command
) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    (registry.root / damaged / "manifest.json").write_text("{}")
    code, output, _ = command("list")
    head, good, bad = output.splitlines()
    assert code == 1
    assert head.split()[-1] == "problem"
    assert good.split()[:2] == ["*", serving]
    assert bad.split()[:5] == [damaged, "-", "-", "-", "-"]
    assert f"version {damaged}: its signature does not match the public keys in {registry.keys.public}." in bad


def test_what_a_manifest_says_is_never_read_as_markup(published: Callable[..., str], command: Command) -> None:
    published(dag_run_id="[red]run[/red]:warning:")
    assert cells(command("list")[1])[1][-1] == "[red]run[/red]:warning:"


def test_nothing_is_cut_off_in_a_pipe(
    registry: Registry, published: Callable[..., str], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the terminal's width; the other commands print as `list` does, and so need no pipe of their own."""
    run_id = "manual__2026-01-01T00:00:00+00:00_" + "x" * 200
    a, b = published(dag_run_id=run_id), published(params={"csv_path": run_id})
    run = subprocess.run(
        [sys.executable, "-m", "penguins.registry", "list"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment_of(registry), "COLUMNS": "20"},
    )
    assert run.stderr == ""
    outputs = [run.stdout]
    for columns in ("20", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        outputs += [command(*arguments)[1] for arguments in (["list"], ["show", a], ["diff", a, b])]
    for output in outputs:
        assert run_id in output
        assert a in output
        assert output.isascii()


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_narrow_terminal_folds_the_run_and_leaves_the_version_whole(
    registry: Registry, published: Callable[..., str]
) -> None:
    version = published(dag_run_id="manual__" + "Q" * 60)
    terminal, of_process = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "penguins.registry", "list"],
        stdout=of_process,
        env={**environment_of(registry), "COLUMNS": "80", "TERM": "xterm"},
    ) as process:
        os.close(of_process)
        printed = b""
        try:
            while piece := os.read(terminal, 4096):
                printed += piece
        except OSError:  # how Linux says that the other end was closed
            pass
        os.close(terminal)
    text = printed.decode()
    assert process.returncode == 0
    assert version in text
    assert text.count("Q") == 60


# show


def test_show_prints_what_the_manifest_says(publish: Publish, command: Command) -> None:
    manifest = publish()
    code, output, errors = command("show", manifest["version"])
    assert command("show", "current") == (code, output, errors)
    lines = cells(output)
    assert (code, errors) == (0, "")
    assert ["version", manifest["version"]] in lines
    assert ["serves", "yes"] in lines
    assert ["created", manifest["created_at"]] in lines
    assert ["accuracy", f"{manifest['metrics']['accuracy']:.6g}"] in lines
    assert ["cross_validation.folds", "10"] in lines
    assert ["passed", "True"] in lines
    assert ["rows", "344"] in lines
    assert ["scikit-learn", manifest["libraries"]["scikit-learn"]] in lines
    assert ["island", "category", "Biscoe,", "Dream,", "Torgersen", "no"] in lines
    assert ["culmen_length_mm", "number", "10", "to", "100", "mm", "yes"] in lines
    assert ["model.pkl", f"{manifest['size_bytes']:,}", "bytes"] in lines
    for name, scores in manifest["metrics"]["per_class"].items():
        [row] = [line for line in lines if line[0:1] == [name] and len(line) == 8]
        place = manifest["classes"].index(name)
        assert row[4:] == [str(scores["rows"]), *map(str, manifest["metrics"]["confusion_matrix"][place])]


def test_show_of_a_changed_manifest_fails(registry: Registry, publish: Publish, command: Command) -> None:
    version = publish()["version"]
    (registry.root / version / "manifest.json").write_text("{}")
    code, output, errors = command("show", version)
    assert (code, output) == (1, "")
    assert "its signature does not match" in errors


# diff


def test_diff_of_the_same_model_says_that_nothing_differs(publish: Publish, command: Command) -> None:
    a, b = publish()["version"], publish()["version"]
    assert command("diff", a, b) == (
        0,
        f"{a} and {b} differ only in time and run: the pickles are the same.\n",
        "",
    )


def test_diff_compares_the_versions_row_by_row(registry: Registry, trained: Trained, command: Command) -> None:
    keys = np.arange(200, dtype=np.uint64)
    all_judged = np.ones(200, dtype=bool)
    kept = [Predictions(keys, keys % 50 > 0, all_judged), Predictions(keys[20:], keys[20:] % 40 > 0, all_judged[20:])]
    a, b = (registry.publish(*trained, predictions=each.to_bytes())["version"] for each in kept)
    _, output, errors = command("diff", a, b)
    assert errors == ""
    assert (
        f"on 180 rows that neither was trained on, {b} is right on 176 and {a} on 177; "
        f"only {b} is right on 3, only {a} " in output
    )


def test_diff_prints_what_differs_and_nothing_else(
    registry: Registry, trained: Trained, published: Callable[..., str], command: Command
) -> None:
    facts = trained[1]
    a = published(params={"n_estimators": 100, "csv_path": "a.csv"})
    columns = [{**facts["columns"][0], "values": ["Biscoe", "Dream"]}, *facts["columns"][1:]]
    b = registry.publish(
        b"another pickle",
        {
            **facts,
            "params": {"n_estimators": 20, "csv_path": "a.csv", "new": None},
            "metrics": {**facts["metrics"], "accuracy": facts["metrics"]["accuracy"] - 0.25, "gate": {"passed": False}},
            "data": {**facts["data"], "sha256": "0" * 64, "rows": 345},
            "libraries": {**facts["libraries"], "numpy": "1.2.3"},
            "columns": columns,
        },
    )["version"]
    code, output, errors = command("diff", a, "current")
    manifest = registry.manifest(b)
    before, accuracy = facts["data"]["sha256"], facts["metrics"]["accuracy"]
    assert (code, errors) == (0, "")
    assert cells(output) == [
        [a, b, "change"],
        ["params.n_estimators", "100", "20", "-80"],
        ["metrics.accuracy", f"{accuracy:.6g}", f"{accuracy - 0.25:.6g}", "-0.25"],
        ["data.sha256", before, "0" * 64],
        ["data.rows", "344", "345", "+1"],
        ["columns.island.values", "Biscoe,", "Dream,", "Torgersen", "Biscoe,", "Dream"],
        ["libraries.numpy", facts["libraries"]["numpy"], "1.2.3"],
        ["pickle", "sha256", registry.manifest(a)["sha256"], manifest["sha256"]],
        ["params.new", "absent", "null"],
    ]


# verify


def test_verify_prints_the_versions_newest_first_with_a_star_on_the_serving_one(
    registry: Registry, publish: Publish, command: Command
) -> None:
    manifest = publish()
    newer = publish()["version"]
    registry.activate(manifest["version"])
    said = f"accuracy {manifest['metrics']['accuracy']:.4f}  test"
    assert command("verify") == (0, f"  {newer}  {said}\n* {manifest['version']}  {said}\n", "")


def test_verify_names_each_damaged_version_and_what_is_wrong_with_it(
    registry: Registry, trained: Trained, publish: Publish, command: Command
) -> None:
    version = registry.publish(*trained, make_report=lambda _: b"<p>report</p>", predictions=b"kept")["version"]
    serving = publish()["version"]
    assert command("verify")[0] == 0
    for file, said in (
        ("predictions.parquet", "the sha256 of its predictions is"),
        ("report.html", "the sha256 of its report is"),
        ("model.pkl", "the sha256 of its pickle is"),
        ("manifest.json", "its signature does not match"),
    ):
        path = registry.root / version / file
        content = path.read_bytes()
        path.write_bytes(b"{}")
        code, output, _ = command("verify")
        good, bad = output.splitlines()
        assert code == 1
        assert good.startswith(f"* {serving}  accuracy")
        assert bad.startswith(f"  {version}  BAD: version {version}: {said}")
        path.write_bytes(content)


# activate and rotate-key


def test_activate_rolls_back(registry: Registry, publish: Publish, command: Command) -> None:
    first = publish()["version"]
    publish()
    assert command("activate", first) == (0, f"{first} serves now\n", "")
    assert registry.current() == first


def test_activate_refuses_what_is_no_whole_version(registry: Registry, publish: Publish, command: Command) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    (registry.root / damaged / "model.pkl").write_bytes(b"")
    for version, said in (
        *((name, name) for name in (ABSENT, "latest", "../key")),
        (damaged, f"version {damaged}: the sha256 of its pickle"),
    ):
        code, output, errors = command("activate", version)
        assert (code, output) == (1, "")
        assert said in errors
        assert registry.current() == serving


def test_rotate_key_names_the_file_and_leaves_the_versions_valid(
    registry: Registry, publish: Publish, command: Command
) -> None:
    publish()
    before = registry.keys.private.read_text()
    code, output, _ = command("rotate-key")
    assert code == 0
    for file in (registry.keys.private, registry.keys.public):
        assert str(file) in output
    assert registry.keys.private.read_text() != before
    publish()
    assert command("verify")[0] == 0


# Every command


def test_a_version_that_is_not_there_is_refused_with_those_that_are(publish: Publish, command: Command) -> None:
    versions = [publish()["version"], publish()["version"]]
    for arguments in (("show", "latest"), ("diff", "current", ABSENT)):
        code, output, errors = command(*arguments)
        assert (code, output) == (1, "")
        assert f"there is no version {arguments[-1]!r}" in errors
        assert f"it must be `current` or one of {versions[1]}, {versions[0]}" in errors
        assert "`python -m penguins.registry list` shows them" in errors


def test_a_serving_version_that_is_gone_is_said(registry: Registry, publish: Publish, command: Command) -> None:
    version, gone = publish()["version"], publish()["version"]
    shutil.rmtree(registry.root / gone)
    for name in ("list", "verify"):
        code, output, errors = command(name)
        assert code == 1
        assert cells(output)[-1][0] == version  # without a star
        assert gone not in output
        assert errors == f"the serving version {gone} is missing\n"


def test_before_the_first_model_it_says_what_to_do(command: Command) -> None:
    for arguments in (("list",), ("verify",), ("show", "current"), ("show", "x"), ("diff", "x", "y")):
        code, output, errors = command(*arguments)
        assert (code, output) == (1, ""), arguments
        assert "trigger the DAG modelo_penguin" in errors


def test_other_arguments_are_refused_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        *([], ["remove"], ["activate"], ["list", "all"]),
        *(["show"], ["diff", "a"], ["show", "a", "b"]),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: python -m penguins.registry" in capsys.readouterr().err


def test_it_needs_nothing_but_pythonpath_and_without_a_table_no_rich(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    without_rich = (
        "import sys; sys.modules['rich'] = None; from penguins.registry.__main__ import main; "
        f"sys.exit(main(['verify']) or main(['activate', {version!r}]))"
    )
    for arguments in (["-m", "penguins.registry", "verify"], ["-c", without_rich]):
        run = subprocess.run(
            [sys.executable, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=os.sep,
            env=environment_of(registry),
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith(f"* {version}  accuracy")
