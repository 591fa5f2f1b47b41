"""The registry: published whole or not at all, signed, and never opened unverified."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from penguins.inference import load_model
from penguins.registry import PROJECT, NoModelError, Registry, RegistryError, store
from penguins.registry.__main__ import main
from penguins.registry.store import VERSIONS_KEPT
from penguins.schema import EXAMPLE
from penguins.training.pipeline import build_pipeline, fit

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]
ABSENT = "20260101T000000Z-0123abcd"
ENVIRONMENT = {"PYTHONPATH": str(PROJECT / "plugins")}


@pytest.fixture(scope="module")
def other(penguins_tables: tuple[pa.Table, pa.Table]) -> bytes:
    """Another model than the trained one."""
    train, _ = penguins_tables
    return fit(build_pipeline(n_estimators=2, max_samples=100_000, random_state=0, rows=train.num_rows), train)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Registry], None]:
    """Name a registry in the environment."""

    def environment(registry: Registry) -> None:
        monkeypatch.setenv("MODELS_DIR", str(registry.root))
        monkeypatch.setenv("MODEL_SIGNING_KEY_FILE", str(registry.key_file))

    return environment


def pickle_of(registry: Registry, version: str) -> Path:
    return registry.root / version / "model.pkl"


def manifest_of(registry: Registry, version: str) -> Path:
    return registry.root / version / "manifest.json"


def files_in(registry: Registry) -> dict[str, bytes]:
    return {str(p.relative_to(registry.root)): p.read_bytes() for p in registry.root.rglob("*") if p.is_file()}


def test_the_environment_names_the_registry_and_without_it_it_is_the_checkouts(
    registry: Registry, environment: Callable[[Registry], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(registry)
    assert Registry.from_environment() == registry
    checkout = Path(__file__).parents[4]
    for empty in (True, False):
        for name in ("MODELS_DIR", "MODEL_SIGNING_KEY_FILE"):
            monkeypatch.setenv(name, "") if empty else monkeypatch.delenv(name)
        assert Registry.from_environment() == Registry(checkout / "models", checkout / ".local" / "model_signing.key")


# versions and current


def test_versions_are_folders_named_like_one(registry: Registry, publish: Publish) -> None:
    assert registry.versions() == []
    version = publish()["version"]
    for name in ("runs", ".staging-20260101T000000Z-0123abcd", "20260101T000000Z", f"{ABSENT}x", f"old-{ABSENT}"):
        (registry.root / name).mkdir()
    (registry.root / ABSENT).write_text("a file")
    assert registry.versions() == [version]


def test_before_the_first_publish_the_message_says_what_to_do(registry: Registry) -> None:
    with pytest.raises(NoModelError) as caught:
        registry.current()
    assert str(registry.root) in str(caught.value)
    assert "trigger the DAG modelo_penguin" in str(caught.value)


def test_a_pointer_to_no_version_is_refused_and_what_it_holds_is_not_said(registry: Registry, publish: Publish) -> None:
    publish()
    pointer = registry.root / "current"
    for content in (
        *("", "latest", "../../etc", f"{ABSENT}/..", f"../{ABSENT}"),
        *(f"{ABSENT} {ABSENT}", f"{ABSENT}\0", "x" * 1000),
    ):
        pointer.write_text(content)
        with pytest.raises(RegistryError, match="is not a version; one looks like 2026") as caught:
            registry.current()
        assert not isinstance(caught.value, NoModelError)
        assert str(caught.value).startswith(f"the first line of {pointer} is not a version")
        assert not content or content[:80] not in str(caught.value)


def test_a_pointer_that_cannot_be_read_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    pointer = registry.root / "current"
    pointer.write_bytes(b"\xff\xfe")
    with pytest.raises(RegistryError, match="current cannot be read"):
        registry.current()
    pointer.unlink()
    pointer.mkdir()
    with pytest.raises(RegistryError, match="current cannot be read"):
        registry.current()


def test_a_name_that_is_no_version_is_refused_everywhere(registry: Registry, publish: Publish) -> None:
    publish()
    uses: tuple[Callable[[str], Any], ...] = (
        *(registry.manifest, registry.read, registry.activate),
        *(registry.report, registry.predictions),
    )
    for version in ("", "..", "../key", "../../etc", "runs", f"{ABSENT}/../{ABSENT}", f"{ABSENT}\n"):
        for use in uses:
            with pytest.raises(RegistryError, match="is not a version") as caught:
                use(version)
            assert str(caught.value).startswith(f"{version!r} is not a version")


# manifest and read. Whatever was changed, the version is refused and its name is said.


def assert_refused(registry: Registry, version: str, said: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.read(version)
    assert f"version {version}" in str(caught.value)
    assert said in str(caught.value)


def truncated(content: bytes) -> bytes:
    return content[:-1]


def bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def emptied(content: bytes) -> bytes:
    return b""


def test_a_manifest_whose_facts_were_changed_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    manifest = json.loads(path.read_text())
    names = manifest.keys() - {"signature"}
    assert names >= {
        *("version", "created_at", "sha256", "size_bytes", "dag_run_id", "data", "params"),
        *("metrics", "classes", "rows", "columns", "libraries", "golden", "histograms"),
    }
    for name in [*names, "added"]:
        path.write_text(json.dumps({**manifest, name: "forged"}))
        assert_refused(registry, version, "its signature does not match")
    for name in names:
        path.write_text(json.dumps({k: v for k, v in manifest.items() if k != name}))
        assert_refused(registry, version, "its signature does not match")


def test_any_other_signature_or_none_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    facts = json.loads(path.read_text())
    del facts["signature"]
    signatures: tuple[Any, ...] = ("", "0" * 64, "é", "\ud800", None, True, 0, [], {})
    for manifest in (
        *(None, [], {}, "text", float("nan"), {"signature": ""}),  # JSON, but no manifest
        *(facts, *({**facts, "signature": signature} for signature in signatures)),
    ):
        path.write_text(json.dumps(manifest))
        assert_refused(registry, version, "its signature does not match")


def test_formatting_a_manifest_anew_changes_nothing(registry: Registry, publish: Publish) -> None:
    """It is the facts that are signed, not the bytes."""
    manifest = publish()
    path = manifest_of(registry, manifest["version"])
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert registry.manifest(manifest["version"])["metrics"] == manifest["metrics"]


def test_what_is_no_json_or_not_there_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    for content in (truncated(path.read_bytes()), b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000):
        path.write_bytes(content)
        assert_refused(registry, version, "its manifest cannot be read")
    assert_refused(registry, ABSENT, "its manifest cannot be read")


def test_a_changed_pickle_is_refused_with_both_checksums(registry: Registry, publish: Publish) -> None:
    manifest = publish()
    version, path = manifest["version"], pickle_of(registry, manifest["version"])
    pickled = path.read_bytes()
    for change in (truncated, bit_flipped, emptied):
        path.write_bytes(change(pickled))
        now = hashlib.sha256(path.read_bytes()).hexdigest()
        assert_refused(
            registry, version, f"the sha256 of its pickle is {now}, but the manifest says {manifest['sha256']}"
        )
        assert_refused(registry, version, "activate another version")
    path.write_bytes(pickled + b".")
    assert_refused(registry, version, f"it has {len(pickled) + 1:,} bytes; it may have {len(pickled):,} at most")
    path.unlink()
    assert_refused(registry, version, "its pickle cannot be read")


def test_another_versions_files_are_refused(registry: Registry, publish: Publish, other: bytes) -> None:
    """An old model must not come back under a newer one's name."""
    first, second = publish()["version"], registry.publish(other, {})["version"]
    (registry.root / first).rename(registry.root / "aside")
    (registry.root / second).rename(registry.root / first)
    (registry.root / "aside").rename(registry.root / second)
    assert_refused(registry, first, f"its manifest is that of {second}")
    assert_refused(registry, second, f"its manifest is that of {first}")
    third, fourth = registry.publish(other, {})["version"], publish()["version"]
    shutil.copy(pickle_of(registry, third), pickle_of(registry, fourth))
    assert_refused(registry, fourth, f"the sha256 of its pickle is {registry.manifest(third)['sha256']}")


def test_a_replaced_pickle_with_its_checksum_in_the_manifest_is_refused(
    registry: Registry, publish: Publish, other: bytes
) -> None:
    version = publish()["version"]
    pickle_of(registry, version).write_bytes(other)
    path = manifest_of(registry, version)
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": hashlib.sha256(other).hexdigest()}))
    assert_refused(registry, version, f"its signature does not match the key in {registry.key_file}")


def test_the_registry_opens_no_pickle_signed_or_not(
    registry: Registry, publish: Publish, tmp_path: Path, environment: Callable[[Registry], None]
) -> None:
    opened = tmp_path / "opened"

    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (opened,)

    bad = pickle.dumps(WritesWhenOpened())
    pickle.loads(bad)
    opened.unlink()  # raises unless the pickle does what it is here for
    environment(registry)
    facts = {"metrics": {"accuracy": 1.0}, "dag_run_id": "test", "data": {"rows": 344}}
    signed = registry.publish(bad, facts)["version"]
    assert registry.read(signed)[1] == bad
    assert [main(["list"]), main(["verify"]), main(["activate", signed])] == [0, 0, 0]
    replaced = publish()["version"]
    pickle_of(registry, replaced).write_bytes(bad)
    assert_refused(registry, replaced, f"the sha256 of its pickle is {hashlib.sha256(bad).hexdigest()}")
    with pytest.raises(RegistryError):
        registry.activate(replaced)
    assert [main(["list"]), main(["verify"]), main(["activate", replaced])] == [0, 1, 1]
    publish()
    assert not opened.exists()


# report and predictions


def publish_with_report(registry: Registry, trained: Trained, report: bytes = b"<p>report</p>") -> dict[str, Any]:
    return registry.publish(*trained, make_report=lambda _: report)


def test_a_report_is_made_from_the_manifest_and_read_as_it_was_published(registry: Registry, trained: Trained) -> None:
    made_from: list[dict[str, Any]] = []

    def make_report(manifest: Any) -> bytes:
        made_from.append(dict(manifest))
        return f"<p>{manifest['version']}</p>".encode()

    manifest = registry.publish(*trained, make_report=make_report)
    report = registry.report(manifest["version"])
    assert report == f"<p>{manifest['version']}</p>".encode()
    assert manifest["report_sha256"] == hashlib.sha256(report).hexdigest()
    assert made_from == [{k: v for k, v in manifest.items() if k != "report_sha256"}]
    assert registry.read(manifest["version"])[0] == json.loads(json.dumps(manifest))


def test_a_report_that_was_changed_or_is_gone_is_refused(registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained)["version"]
    path = registry.root / version / "report.html"
    path.write_bytes(b"<p>forged</p>")
    with pytest.raises(RegistryError, match=r"the sha256 of its report is .*changed after publishing"):
        registry.report(version)
    manifest = json.loads(manifest_of(registry, version).read_bytes())
    forged = {**manifest, "report_sha256": hashlib.sha256(b"<p>forged</p>").hexdigest()}
    manifest_of(registry, version).write_text(json.dumps(forged))
    with pytest.raises(RegistryError, match="signature does not match"):
        registry.report(version)
    manifest_of(registry, version).write_text(json.dumps(manifest))
    path.unlink()
    with pytest.raises(RegistryError, match=f"{version}: its report cannot be read"):
        registry.report(version)


def test_a_version_from_before_reports_has_none_even_if_one_is_put_there(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    with pytest.raises(RegistryError, match=rf"{version} has no report.*Trigger the DAG"):
        registry.report(version)
    registry.read(version)
    (registry.root / version / "report.html").write_text("<p>forged</p>")
    with pytest.raises(RegistryError, match="has no report"):
        registry.report(version)
    with pytest.raises(RegistryError, match=f"there is no version {ABSENT}"):
        registry.report(ABSENT)


def test_predictions_are_kept_signed_and_read_as_they_were_published(registry: Registry, trained: Trained) -> None:
    manifest = registry.publish(*trained, predictions=b"kept")
    version = manifest["version"]
    assert registry.predictions(version) == b"kept"
    assert registry.manifest(version)["predictions_sha256"] == hashlib.sha256(b"kept").hexdigest()
    (registry.root / version / "predictions.parquet").write_bytes(b"others")
    with pytest.raises(RegistryError, match="the sha256 of its predictions is"):
        registry.predictions(version)


# publish


def test_what_is_published_is_read_and_serves(registry: Registry, trained: Trained) -> None:
    manifest = registry.publish(*trained)
    assert registry.current() == manifest["version"]
    read, pickled = registry.read(manifest["version"])
    assert pickled == trained[0]
    assert read == json.loads(json.dumps(manifest)) == registry.manifest(manifest["version"])
    assert load_model(pickled, read).predict([EXAMPLE])[0].label == "Gentoo"


def test_the_manifest_holds_the_facts_and_what_identifies_the_pickle(registry: Registry, trained: Trained) -> None:
    pickled, facts = trained
    before = datetime.now(UTC).replace(microsecond=0)
    manifest = registry.publish(pickled, facts)
    assert {name: manifest[name] for name in facts} == facts
    assert manifest["sha256"] == hashlib.sha256(pickled).hexdigest()
    assert manifest["size_bytes"] == len(pickled)
    created_at = datetime.fromisoformat(manifest["created_at"])
    assert before <= created_at <= datetime.now(UTC)
    assert manifest["version"] == f"{created_at:%Y%m%dT%H%M%SZ}-{manifest['sha256'][:8]}"


def test_a_version_is_two_files_with_a_signature(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    files = {".lock", ".last-pointer", f"{version}/manifest.json", f"{version}/model.pkl", "current"}
    assert files_in(registry).keys() == files
    assert re.fullmatch(r"[0-9a-f]{64}", json.loads(manifest_of(registry, version).read_bytes())["signature"])
    assert (registry.root / "current").read_text().splitlines()[0] == version


def test_versions_of_one_second_have_names_of_their_own_and_are_newest_first(
    registry: Registry, publish: Publish, other: bytes
) -> None:
    """Moving the clock on for the same model must not put the next model, published later, behind it."""
    published = [publish()["version"], publish()["version"], registry.publish(other, {})["version"]]
    assert len(set(published)) == 3
    assert registry.versions() == published[::-1]
    assert registry.current() == published[-1]
    for version in published:
        registry.read(version)


def test_a_versions_name_is_never_used_again(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even that of a version which retention removed."""
    monkeypatch.setattr(store, "VERSIONS_KEPT", 2)
    published = [publish()["version"] for _ in range(6)]
    assert registry.versions() == published[:-3:-1]
    assert len(set(published)) == len(published)


def test_a_fact_or_a_report_that_cannot_be_written_publishes_nothing(registry: Registry, trained: Trained) -> None:
    serving = publish_with_report(registry, trained)["version"]
    pickled, facts = trained
    with pytest.raises(ValueError, match="JSON compliant"):
        registry.publish(pickled, {**facts, "accuracy": float("nan")})
    with pytest.raises(ZeroDivisionError):
        registry.publish(pickled, facts, make_report=lambda _: bytes(1 // 0))
    assert (registry.versions(), registry.current()) == ([serving], serving)
    assert not list(registry.root.glob(".staging-*"))


# activate


def test_activate_makes_an_older_version_serve_until_the_next_publish(registry: Registry, publish: Publish) -> None:
    first, second = publish()["version"], publish()["version"]
    registry.activate(first)
    assert registry.current() == first
    assert registry.versions() == [second, first]
    third = publish()["version"]
    assert registry.current() == third


def test_activate_refuses_a_damaged_version_and_leaves_what_serves(registry: Registry, publish: Publish) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    for file in ("model.pkl", "manifest.json"):
        path = registry.root / damaged / file
        content = path.read_bytes()
        for change in (truncated, bit_flipped):
            path.write_bytes(change(content))
            with pytest.raises(RegistryError, match=damaged):
                registry.activate(damaged)
            assert registry.current() == serving
        path.write_bytes(content)
    with pytest.raises(RegistryError, match=ABSENT):
        registry.activate(ABSENT)
    assert registry.current() == serving


# Folders of runs


def test_a_runs_folder_has_its_name_and_is_the_same_for_each_task(registry: Registry) -> None:
    for run_id in ("manual__2026-01-01T00:00:00+00:00", "v1.2", "run_7"):
        folder = registry.run_folder(run_id)
        assert folder == registry.root / "runs" / run_id
        assert folder.is_dir()
    (registry.run_folder("run") / "train.parquet").write_bytes(b"rows")
    assert (registry.run_folder("run") / "train.parquet").read_bytes() == b"rows"


def test_a_runs_folder_stays_one_folder_under_runs(registry: Registry) -> None:
    for run_id in ("", ".", "..", "../..", "../../etc", "/etc", "a/b", "a\\b", "a\0b", ".hidden", "~"):
        folder = registry.run_folder(run_id)
        assert folder.resolve().parent == (registry.root / "runs").resolve(), run_id
        assert folder.is_dir()


def test_removing_the_runs_folders_leaves_the_versions(registry: Registry, publish: Publish) -> None:
    registry.remove_run_folders()  # no error where there are none
    version = publish()["version"]
    registry.run_folder("one")
    registry.run_folder("two")
    registry.remove_run_folders()
    assert not (registry.root / "runs").exists()
    registry.read(version)


# The key


def test_a_rotated_key_signs_and_what_the_old_one_signed_stays_valid(registry: Registry, publish: Publish) -> None:
    old = publish()["version"]
    before = registry.key_file.read_text().split()
    mode = registry.key_file.stat().st_mode
    registry.rotate_key()
    new = publish()["version"]
    keys = registry.key_file.read_text().split()
    assert keys[1:] == before
    assert keys[0] not in before
    assert registry.key_file.stat().st_mode == mode
    for version in (old, new):
        registry.read(version)
    registry.key_file.write_text(keys[0])  # the old key is retired
    registry.read(new)
    with pytest.raises(RegistryError, match="signed with another key"):
        registry.read(old)


def test_a_version_signed_with_another_key_is_refused_from_the_moment_the_key_is_another(
    registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]
    key = registry.key_file.read_bytes()
    registry.key_file.write_text(secrets.token_hex(32))
    assert_refused(registry, version, f"does not match the key in {registry.key_file}")
    registry.key_file.write_bytes(key + b"\n")  # a line end changes nothing
    registry.read(version)


def test_a_key_that_is_missing_is_named_with_what_makes_it(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    registry.key_file.unlink()
    for use in (publish, lambda: registry.read(version)):
        with pytest.raises(RegistryError) as caught:
            use()
        for said in (str(registry.key_file), "No such file", "make run", "MODEL_SIGNING_KEY_FILE"):
            assert said in str(caught.value)
    assert registry.versions() == [version]


def test_a_key_of_less_than_32_bytes_is_refused_with_its_length(registry: Registry, publish: Publish) -> None:
    for length in (0, 1, 31):
        registry.key_file.write_text("k" * length)
        with pytest.raises(RegistryError, match=f"has {length} bytes; it must have 32 or more") as caught:
            publish()
        assert str(registry.key_file) in str(caught.value)
        assert registry.versions() == []
    registry.key_file.write_text("k" * 32)
    registry.read(publish()["version"])


# Retention


def make_versions(registry: Registry, year: int, count: int) -> list[str]:
    """Make folders named like versions, newest first; only their names matter to retention."""
    names = [f"{year}01{day:02}T000000Z-0123abcd" for day in range(count, 0, -1)]
    for name in names:
        (registry.root / name).mkdir(parents=True)
        (registry.root / name / "model.pkl").write_bytes(b"")
    return names


def test_the_ten_newest_versions_are_kept_and_all_else_is_left(registry: Registry, publish: Publish) -> None:
    assert VERSIONS_KEPT == 10
    old = make_versions(registry, year=2020, count=12)
    (registry.root / "notes").mkdir()
    (registry.run_folder("run") / "train.parquet").write_bytes(b"")
    version = publish()["version"]
    assert registry.versions() == [version, *old[:9]]
    assert (registry.root / "notes").is_dir()
    assert (registry.root / "runs" / "run" / "train.parquet").exists()


def test_the_serving_version_is_kept_however_old_its_name(registry: Registry, publish: Publish) -> None:
    """Where the clock was ahead when the others were published."""
    make_versions(registry, year=2090, count=12)
    version = publish()["version"]
    assert registry.current() == version
    registry.read(version)
    assert version in registry.versions()
    assert VERSIONS_KEPT <= len(registry.versions()) <= VERSIONS_KEPT + 1


# Crashes and concurrency


def test_leftovers_of_a_crashed_publisher_are_cleared(registry: Registry, publish: Publish) -> None:
    folder = registry.root / ".staging-0123"
    folder.mkdir(parents=True)
    (folder / "model.pkl").write_bytes(b"half")
    (registry.root / ".staging-4567").write_text("half a pointer")
    version = publish()["version"]
    assert sorted(p.name for p in registry.root.iterdir()) == sorted([".lock", ".last-pointer", version, "current"])


# Publishes in a fork of itself for each line, and prints the exit code: a new Python for each would take longer.
CRASHING_PUBLISHER = """
import os, signal, sys, traceback
from pathlib import Path
from penguins.registry import Registry

registry, pickled, left = Registry(Path(sys.argv[1]), Path(sys.argv[2])), Path(sys.argv[3]).read_bytes(), 0

def step(event="", *_):
    # Each boundary to the system: open, mkdir, rename and remove tell of themselves, a flush is told below.
    global left
    if event.startswith(("open", "os.", "shutil.", "fcntl.", "flush")):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

flush = os.fsync

def stepping_flush(descriptor):
    step("flush")  # written, not flushed
    flush(descriptor)
    step("flush")

for line in sys.stdin:
    if publisher := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(publisher, 0)[1]), flush=True)
        continue
    try:
        os.fsync = stepping_flush
        sys.addaudithook(step)
        left = int(line)
        registry.publish(pickled, {"metrics": {}})
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


def test_a_kill_at_any_boundary_to_the_system_leaves_the_pointer_on_a_whole_version(
    registry: Registry, publish: Publish, other: bytes, tmp_path: Path
) -> None:
    seen, code, boundary = set(), -signal.SIGKILL, 0
    with start(CRASHING_PUBLISHER, registry, written(tmp_path, other)) as publisher:
        assert publisher.stdin is not None
        assert publisher.stdout is not None
        while code:
            boundary += 1
            assert boundary < 200, "the publish went on past 200 boundaries"
            serving = publish()["version"]
            before = set(registry.versions())
            print(boundary, file=publisher.stdin, flush=True)
            code = int(publisher.stdout.readline())
            for version in registry.versions():
                registry.read(version)
            new = set(registry.versions()) - before
            moved = registry.current() != serving
            assert not moved or {registry.current()} == new
            if code:
                assert code == -signal.SIGKILL
                left = sorted(path.is_dir() for path in registry.root.glob(".staging-*"))
                seen.add((moved, bool(new), tuple(left)))
        publisher.stdin.close()
    assert boundary > 20
    # Nothing yet; a version half written beside; a version in place, then with a pointer beside; the pointer moved.
    assert {
        (False, False, ()),
        (False, False, (True,)),
        (False, True, ()),
        (False, True, (False,)),
        (True, True, ()),
    } <= seen
    publish()
    assert not list(registry.root.glob(".staging-*"))


def test_a_full_disk_is_said_and_what_serves_goes_on(registry: Registry, publish: Publish, other: bytes) -> None:
    serving = publish()["version"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(other) // 2, hard))  # a real write that fails half way
    try:
        with pytest.raises(RegistryError, match=r"cannot be written: File too large.*free some space") as caught:
            registry.publish(other, {"metrics": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(caught.value.__cause__, OSError)
    assert registry.current() == serving
    assert registry.versions() == [serving]
    assert not list(registry.root.glob(".staging-*"))


PUBLISHER = """
import sys
from pathlib import Path
from penguins.registry import Registry

registry = Registry(Path(sys.argv[1]), Path(sys.argv[2]))
pickles = [Path(path).read_bytes() for path in sys.argv[3:]]
print("ready", flush=True)
sys.stdin.readline()
for number in range(4):
    print(registry.publish(pickles[number % 2], {"number": number})["version"], flush=True)
"""


def test_two_publishers_at_once_both_publish_and_a_reader_sees_whole_versions(
    registry: Registry, publish: Publish, trained: Trained, other: bytes, tmp_path: Path
) -> None:
    """Two models in turn each, so that now the same model meets, and now different ones."""
    first = publish()["version"]
    pickles = written(tmp_path, trained[0], other)
    with (
        start(PUBLISHER, registry, pickles) as a,
        start(PUBLISHER, registry, pickles) as b,
        ThreadPoolExecutor(2) as threads,
    ):
        for publisher in (a, b):
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "ready\n"
        ended = [threads.submit(publisher.communicate, "go\n", timeout=60) for publisher in (a, b)]
        while not all(publisher.done() for publisher in ended):
            registry.read(registry.current())
    (by_a, errors_of_a), (by_b, errors_of_b) = (publisher.result() for publisher in ended)
    assert (a.returncode, errors_of_a, b.returncode, errors_of_b) == (0, "", 0, "")
    published = [first, *by_a.split(), *by_b.split()]
    assert len(published) == len(set(published)) == 9
    assert set(registry.versions()) == set(published)
    assert registry.current() in (by_a.split()[-1], by_b.split()[-1])
    for version in published:
        registry.read(version)
    assert not list(registry.root.glob(".staging-*"))


def written(folder: Path, *pickles: bytes) -> list[Path]:
    paths = [folder / f"{number}.pkl" for number in range(len(pickles))]
    for path, pickled in zip(paths, pickles, strict=True):
        path.write_bytes(pickled)
    return paths


def start(code: str, registry: Registry, pickles: list[Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, (registry.root, registry.key_file, *pickles))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
