"""A volume that lies: what somebody may do who can write to the registry's folder but has no key."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penguins.registry import PROJECT, Keys, NoModelError, Pointer, Registry, RegistryError, pointer, store, writing
from penguins.registry.__main__ import main
from penguins.registry.names import is_version, name_of
from penguins.registry.pointer import move_pointer
from penguins.registry.run_files import run_folder

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]


def outcome_of(use: Callable[[], Any]) -> str:
    """Return the RegistryError's message, or an empty string. Whatever hangs fails, and keeps nobody waiting."""
    said: list[str] = []

    def run() -> None:
        try:
            use()
        except RegistryError as error:
            said.append(str(error))
        else:
            said.append("")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive(), "it hangs"
    return said[0]


def trusted_pointer(registry: Registry) -> Pointer:
    """Return what the file `current` holds, whatever its copy would say."""
    now, problem = registry.pointer()
    if problem:
        raise RegistryError(problem)
    return now


def fifo(path: Path, _: Registry) -> str:
    os.mkfifo(path)
    return "is a FIFO, not a regular file"


def link_to_the_key(path: Path, registry: Registry) -> str:
    path.symlink_to(registry.keys.private)
    return "is a symbolic link, which is not followed"


def folder(path: Path, _: Registry) -> str:
    path.mkdir()
    return "is a folder, not a file"


def too_long(path: Path, _: Registry) -> str:
    path.touch()
    os.truncate(path, 2**40)  # which takes no space
    return "has 1,099,511,627,776 bytes; it may have "


def copy_of_the_key(path: Path, registry: Registry) -> str:
    shutil.copy(registry.keys.private, path)
    return ""


@pytest.mark.parametrize(
    "name",
    ["current", ".lock", "key", "key.pub", "manifest.json", "manifest.sig", "model.pkl", "report.html", "kept"],
)
def test_what_is_no_plain_file_is_refused_unread_and_nothing_of_the_key_is_said_or_lost(
    registry: Registry, trained: Trained, name: str
) -> None:
    version = registry.publish(*trained, make_report=lambda _: b"<p>", predictions=b"kept")["version"]
    inside = registry.root / version
    path, use = {
        "current": (registry.root / "current", lambda: trusted_pointer(registry)),
        ".lock": (registry.root / ".lock", lambda: registry.activate(version)),
        "key": (registry.keys.private, lambda: registry.activate(version)),
        "key.pub": (registry.keys.public, lambda: registry.read(version)),
        "manifest.json": (inside / "manifest.json", lambda: registry.manifest(version)),
        "manifest.sig": (inside / "manifest.sig", lambda: registry.manifest(version)),
        "model.pkl": (inside / "model.pkl", lambda: registry.read(version)),
        "report.html": (inside / "report.html", lambda: registry.report(version)),
        "kept": (inside / "predictions.parquet", lambda: registry.predictions(version)),
    }[name]
    assert outcome_of(use) == ""
    key, away = registry.keys.private.read_text(), path.with_name("away")
    path.rename(away)
    kinds: list[Callable[[Path, Registry], str]] = [fifo, folder]
    if name not in ("key", "key.pub"):  # which may be links
        kinds.append(link_to_the_key)
    if name != ".lock":  # of which nothing is read
        kinds.append(too_long)
    if name not in ("key", ".lock"):
        kinds.append(copy_of_the_key)
    for put in kinds:
        reason = put(path, registry)
        said = outcome_of(use)
        assert reason in said, put
        assert str(path) in said or version in said, put
        assert key.splitlines()[1][:8] not in said, put
        assert (away if name == "key" else registry.keys.private).read_text() == key, put
        path.rmdir() if path.is_dir() else path.unlink()
    away.rename(path)
    assert outcome_of(use) == ""


def test_the_key_may_be_a_link_as_mounted_secrets_are_and_is_rotated_behind_it(
    registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    behind = tmp_path / "behind"
    registry.keys.private.rename(behind)
    registry.keys.private.symlink_to(behind)
    publish()
    registry.rotate_key()
    assert registry.keys.private.is_symlink()
    assert "PRIVATE KEY" in behind.read_text()
    registry.read(publish()["version"])


def test_links_in_place_of_folders_are_removed_unfollowed_and_nothing_fails(
    registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    version = publish()["version"]
    for use in (publish, lambda: registry.activate(version)):
        (registry.root / ".staging-0123").symlink_to(target)
        (registry.root / ".staging-4567").symlink_to(tmp_path / "nowhere")
        use()
        assert not list(registry.root.glob(".staging-*"))
    links = [registry.root / f"{year}0101T000000Z-0123abcd" for year in (2001, 2100)]
    for link in links:
        link.symlink_to(target)
    assert not {link.name for link in links} & set(registry.versions())
    (registry.root / version).rename(tmp_path / version)
    (registry.root / version).symlink_to(tmp_path / version)
    with pytest.raises(RegistryError, match=f"{version} is a symbolic link, which is no version"):
        registry.read(version)
    newest = publish()["version"]
    assert registry.current() == newest
    assert not [path for path in registry.root.iterdir() if path.is_symlink()]
    assert (target / "kept").exists()


# Names


def put_signed(registry: Registry, like: str, created_at: datetime) -> str:
    """Publish as if the clock stood there."""
    manifest = registry.manifest(like)
    version = name_of(created_at, manifest["sha256"])
    shutil.copytree(registry.root / like, registry.root / version)
    content = json.dumps({**manifest, "version": version}).encode()
    (registry.root / version / "manifest.json").write_bytes(content)
    (registry.root / version / "manifest.sig").write_bytes(registry.keys.sign(content))
    return version


def test_only_signed_versions_that_are_not_from_the_future_count_for_the_next_name(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = publish()["version"]
    now = datetime.now(UTC)
    soon = f"{now + timedelta(hours=1):%Y%m%dT%H%M%SZ}-00000000"
    unsigned = ["99991231T235959Z-00000000", "99999999T999999Z-00000000", soon]
    for name in unsigned:
        (registry.root / name).mkdir()
    in_2200 = put_signed(registry, first, datetime(2200, 1, 1, tzinfo=UTC))
    versions = [first, publish()["version"], publish()["version"]]
    assert versions == sorted(set(versions))
    assert versions[-1] < soon
    assert registry.current() == versions[-1]

    # A clock that went back by hours: names go on behind the newest version.
    ahead = put_signed(registry, first, now + timedelta(hours=3))
    versions = [ahead, publish()["version"], publish()["version"]]
    assert versions == sorted(set(versions))
    assert store.time_of(versions[-1]) - store.time_of(ahead) == timedelta(seconds=2)

    monkeypatch.setenv("MODELS_DIR", str(registry.root))
    monkeypatch.setenv("MODEL_SIGNING_KEY_FILE", str(registry.keys.private))
    assert main(["verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "FROM THE FUTURE" in line] == [in_2200]
    assert {line.split()[0] for line in lines if "BAD" in line} == set(unsigned)


def test_a_name_that_something_unsigned_has_already_is_not_taken(registry: Registry, trained: Trained) -> None:
    sha256 = registry.publish(*trained)["sha256"]
    taken = {name_of(datetime.now(UTC) + timedelta(seconds=n), sha256) for n in range(30)}
    for name in taken - set(registry.versions()):
        (registry.root / name).touch()
    version = registry.publish(*trained)["version"]
    assert version not in taken
    assert registry.current() == version


def test_any_run_id_has_a_folder_of_its_own_whose_name_is_not_too_long(registry: Registry) -> None:
    ids = ["é" * 200, "é" * 201, "x" * 250, "x" * 250 + "y", "漢" * 100, "a/b", "a_b", "a b", ".a_b", "", ".", "\ud800"]
    folders = [run_folder(registry.root, run_id) for run_id in ids]
    assert len(set(folders)) == len(ids)
    assert folders == [run_folder(registry.root, run_id) for run_id in ids]
    assert {path.name for path in folders} == {path.name for path in (registry.root / "runs").iterdir()}
    assert folders[ids.index("a_b")].name == "a_b"


# The key


def test_eight_rotations_at_once_keep_all_keys(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    before = registry.keys.public.read_text().split()
    with (registry.root / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # so that they meet
        rotations = [
            subprocess.Popen(
                [sys.executable, "-m", "penguins.registry", "rotate-key"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={
                    "PYTHONPATH": str(PROJECT / "plugins"),
                    "MODELS_DIR": str(registry.root),
                    "MODEL_SIGNING_KEY_FILE": str(registry.keys.private),
                },
            )
            for _ in range(8)
        ]
    assert [rotation.communicate(timeout=60)[1] for rotation in rotations] == [""] * 8
    found = registry.keys.public.read_text().split()
    assert len(set(found)) == 9
    assert found[-1:] == before
    assert {path.name for path in registry.keys.private.parent.glob("key*")} == {"key", "key.pub"}
    registry.read(version)
    assert registry.current() == version


# The pointer


def test_a_pointer_that_is_unsigned_forged_or_older_is_refused_by_name_and_activate_is_the_way_in(
    registry: Registry, publish: Publish, tmp_path: Path
) -> None:
    first = publish()["version"]
    path = registry.root / "current"
    saved = path.read_text()
    publish()
    last = path.read_text()
    assert is_version(path.read_text().splitlines()[0])
    other_key = Registry(registry.root, Keys(tmp_path / "other", tmp_path / "other.pub"))
    other_key.init()
    move_pointer(other_key.root, other_key.keys, first)
    forged = path.read_text()
    *_, signature = saved.splitlines()
    unmatched = f"but its signature does not match the public keys in {registry.keys.public}"
    for content, said in (
        (f"{first}\n", unmatched),  # as all pointers were once
        ("\n".join([first, *last.splitlines()[1:]]), unmatched),
        (saved.replace('"counter": ', '"counter": 9'), unmatched),
        (f"{first}\n{'[' * 2000}\n{signature}", unmatched),
        (saved.replace(signature, "é" * 64), unmatched),
        (forged, unmatched),
        (saved, "was activated later"),
    ):
        for way_in in (lambda: registry.activate(first), publish):
            path.write_text(content)
            said_now = outcome_of(lambda: trusted_pointer(registry))
            assert f"names version {first}" in said_now, content
            assert said in said_now
            assert "python -m penguins.registry activate VERSION" in said_now
            way_in()
            assert registry.current() == (registry.versions()[0] if way_in is publish else first)


def test_a_reader_that_goes_on_refuses_a_whole_folder_that_is_put_back_and_the_counter_rises_all_the_same(
    registry: Registry, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish()["version"]
    shutil.copytree(registry.root, tmp_path / "saved")
    second = publish()["version"]
    seen = trusted_pointer(registry)
    shutil.rmtree(registry.root)
    (tmp_path / "saved").rename(registry.root)
    with pytest.raises(RegistryError, match=f"names version {first}.* but {second} was activated later"):
        registry.pointer(seen)
    registry.activate(first)
    assert registry.pointer(seen)[0].current == first
    with monkeypatch.context() as patch:
        patch.setattr(pointer.time, "time_ns", lambda: (2**33) * 10**9)  # a clock that stood in 2242
        registry.activate(first)
    seen = trusted_pointer(registry)
    registry.activate(first)
    assert registry.pointer(seen)[0].counter == seen.counter + 1 > time.time() * 1000


def damage(path: Path, _: str) -> str:
    path.write_text("x\n")
    return "is not a version"


def put_back(path: Path, older: str) -> str:
    path.write_text(older)
    return "an older pointer was put back"


def remove(path: Path, _: str) -> str:
    path.unlink()
    return "is missing"


@pytest.mark.parametrize("spoil", [damage, put_back, remove])
def test_a_good_copy_counts_where_the_pointer_cannot_be_trusted_and_both_are_written_again(
    registry: Registry, publish: Publish, trained: Trained, spoil: Callable[[Path, str], str]
) -> None:
    first, path = publish()["version"], registry.root / "current"
    older = path.read_text()
    second = publish()["version"]
    registry.activate(first)  # a rollback, which must not be undone
    said = spoil(path, older)
    now, problem = registry.pointer()
    assert (now.current, registry.current()) == (first, first)
    assert f"{path} " in str(problem)
    assert said in str(problem)
    assert registry.versions() == [second, first]
    registry.activate(first)
    assert registry.pointer()[1] is None


def test_pointers_that_are_gone_make_no_first_start(registry: Registry, publish: Publish, trained: Trained) -> None:
    registry.publish(*trained, activate=False)
    (registry.root / "99990101T000000Z-0123abcd").mkdir()
    with pytest.raises(NoModelError, match=registry.versions()[1]):  # the one to activate is one that is signed
        registry.current()
    version = publish()["version"]
    for name in ("current", ".last-pointer"):
        (registry.root / name).unlink()
    with pytest.raises(RegistryError, match=f"current is missing, although {version} was published to serve") as caught:
        registry.current()
    assert not isinstance(caught.value, NoModelError)


def test_a_lock_that_somebody_holds_is_waited_for_with_a_limit(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish()["version"]
    monkeypatch.setattr(writing, "LOCK_SECONDS", 0.2)
    with (registry.root / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        said = outcome_of(publish)
    assert f"{registry.root / '.lock'} has been locked by another process for 0.2 s" in said
    assert (registry.versions(), registry.current()) == ([version], version)
    publish()


def test_a_folder_that_cannot_be_listed_is_said(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    publish()
    shutil.rmtree(registry.root)
    registry.root.touch()
    for use in (registry.versions, registry.current, publish):
        assert str(registry.root) in outcome_of(use)


def test_the_signature_of_a_pointer_signs_no_manifest(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    signed, _, signature = (registry.root / "current").read_text().rstrip().rpartition("\n")
    (registry.root / version / "manifest.json").write_text(signed)
    (registry.root / version / "manifest.sig").write_bytes(bytes.fromhex(signature))
    with pytest.raises(RegistryError, match=r"its manifest\.json cannot be read: it is not JSON"):
        registry.read(version)
