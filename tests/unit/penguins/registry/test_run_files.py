"""What a run's tasks hand on, and what becomes of it if somebody else can write there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penguins.registry import Registry, RegistryError
from penguins.registry.run_files import RunFiles, published_before, remove_run_folders, run_folder


def test_files_and_tables_come_back_as_they_were_written(registry: Registry) -> None:
    folder = run_folder(registry.root, "run")
    written = RunFiles(folder)
    table = pa.table({"a": [1.5, None], "b": ["x", "y"]})
    written.write("file", b"content")
    written.write_table("table.parquet", table)
    read = RunFiles(folder, written.sums)
    assert read.read("file") == b"content"
    assert read.read_table("table.parquet").equals(table)
    written.write("file", b"again")  # as a task that is tried again
    with pytest.raises(RegistryError, match="Somebody has changed it"):
        read.read("file")


@pytest.mark.parametrize("change", ["rewritten", "removed", "a link to the same"])
def test_a_file_that_is_another_one_now_is_refused(registry: Registry, tmp_path: Path, change: str) -> None:
    files = RunFiles(run_folder(registry.root, "run"))
    files.write("train.parquet", b"rows")
    path = files.folder / "train.parquet"
    if change == "rewritten":
        path.write_bytes(b"foes")
    else:
        path.rename(tmp_path / "elsewhere")
        if change != "removed":
            path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="Run it again"):
        files.read("train.parquet")


def test_links_are_not_written_through(registry: Registry, tmp_path: Path) -> None:
    files, victim = RunFiles(run_folder(registry.root, "run")), tmp_path / "victim"
    victim.write_bytes(b"precious")
    (files.folder / "model.pkl").symlink_to(victim)
    files.write("model.pkl", b"model")
    assert victim.read_bytes() == b"precious"
    assert files.read("model.pkl") == b"model"
    (tmp_path / "outside").mkdir()
    (registry.root / "runs" / "other").symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="other is a symbolic link"):
        run_folder(registry.root, "other")
    remove_run_folders(registry.root)
    (registry.root / "runs").symlink_to(tmp_path / "outside")
    with pytest.raises(RegistryError, match="runs is a symbolic link"):
        run_folder(registry.root, "run")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_publish_that_was_killed_after_the_version_was_there_goes_on(
    registry: Registry, trained: tuple[bytes, dict[str, Any]], publish: Callable[[], dict[str, Any]]
) -> None:
    pickled, facts = trained
    before = registry.publish(pickled, {**facts, "dag_run_id": "before"})
    killed = registry.publish(pickled, {**facts, "dag_run_id": "run"})
    registry.activate(before["version"])  # as if the pointer had not been moved yet
    sha256, manifest = killed["sha256"], registry.manifest(killed["version"])
    assert published_before(registry, "run", sha256, activate=False) == manifest
    assert registry.current() == before["version"]
    assert published_before(registry, "run", sha256, activate=True) == manifest
    assert registry.current() == killed["version"]
    newer = publish()["version"]
    assert published_before(registry, "run", sha256, activate=True) == manifest
    assert registry.current() == newer  # which has come since
    assert published_before(registry, "run", "0" * 64, activate=True) is None
    assert published_before(registry, "other", sha256, activate=True) is None
