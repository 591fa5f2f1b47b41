"""The registry: published whole or not at all, signed, and never opened unverified."""

from __future__ import annotations

import hashlib
import json
import os
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
from penguins.registry import PROJECT, NoModelError, Registry, RegistryError
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


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """The file that the pickle `bad` writes when it is opened."""
    return tmp_path / "opened"


@pytest.fixture
def bad(opened: Path) -> bytes:
    class WritesWhenOpened:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (opened,)

    content = pickle.dumps(WritesWhenOpened())
    pickle.loads(content)
    opened.unlink()  # raises unless the pickle does what it is here for
    return content


def pickle_of(registry: Registry, version: str) -> Path:
    return registry.root / version / "model.pkl"


def manifest_of(registry: Registry, version: str) -> Path:
    return registry.root / version / "manifest.json"


def files_in(registry: Registry) -> dict[str, bytes]:
    return {str(p.relative_to(registry.root)): p.read_bytes() for p in registry.root.rglob("*") if p.is_file()}


# publish and read


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
    assert sorted(files_in(registry)) == [".lock", f"{version}/manifest.json", f"{version}/model.pkl", "current"]
    assert re.fullmatch(r"[0-9a-f]{64}", json.loads(manifest_of(registry, version).read_bytes())["signature"])
    assert (registry.root / "current").read_text() == f"{version}\n"


def test_the_same_model_twice_in_a_second_gives_two_versions(registry: Registry, publish: Publish) -> None:
    first, second = publish()["version"], publish()["version"]
    assert first != second
    assert registry.versions() == [second, first]
    assert registry.current() == second
    for version in (first, second):
        registry.read(version)


def test_versions_are_newest_first_within_a_second_too(registry: Registry, publish: Publish, other: bytes) -> None:
    """Moving the clock on for the same model must not put the next model, published later, behind it."""
    published = [publish()["version"], publish()["version"]]
    published.append(registry.publish(other, {})["version"])
    assert registry.versions() == published[::-1]


def test_a_versions_name_is_never_used_again(registry: Registry, publish: Publish) -> None:
    """Not even that of a version which retention removed."""
    published = [publish()["version"] for _ in range(VERSIONS_KEPT + 5)]
    assert len(set(published)) == len(published)


def test_a_fact_that_json_cannot_hold_publishes_nothing(registry: Registry, trained: Trained, publish: Publish) -> None:
    serving = publish()["version"]
    pickled, facts = trained
    with pytest.raises(ValueError, match="JSON compliant"):
        registry.publish(pickled, {**facts, "accuracy": float("nan")})
    assert registry.versions() == [serving]
    assert registry.current() == serving


def test_the_registry_opens_no_pickle_not_even_a_signed_one(
    registry: Registry, bad: bytes, opened: Path, environment: Callable[[Registry], None]
) -> None:
    facts = {"metrics": {"accuracy": 1.0}, "dag_run_id": "test", "data": {"rows": 344}}
    version = registry.publish(bad, facts)["version"]
    environment(registry)
    assert registry.read(version)[1] == bad
    assert [main(["list"]), main(["verify"]), main(["activate", version])] == [0, 0, 0]
    assert not opened.exists()


# report


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


def test_predictions_are_kept_signed_and_read_as_they_were_published(registry: Registry, trained: Trained) -> None:
    manifest = registry.publish(*trained, predictions=b"kept")
    version = manifest["version"]
    assert registry.predictions(version) == b"kept"
    assert registry.manifest(version)["predictions_sha256"] == hashlib.sha256(b"kept").hexdigest()
    (registry.root / version / "predictions.parquet").write_bytes(b"others")
    with pytest.raises(RegistryError, match="the sha256 of its predictions is"):
        registry.predictions(version)


def test_a_report_that_cannot_be_made_publishes_nothing(registry: Registry, trained: Trained) -> None:
    serving = publish_with_report(registry, trained)["version"]
    with pytest.raises(ZeroDivisionError):
        registry.publish(*trained, make_report=lambda _: bytes(1 // 0))
    assert (registry.versions(), registry.current()) == ([serving], serving)
    assert not list(registry.root.glob(".staging-*"))


def test_a_version_from_before_reports_says_so_and_is_read_as_ever(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    with pytest.raises(RegistryError, match=rf"{version} has no report.*Trigger the DAG"):
        registry.report(version)
    registry.read(version)


def test_a_report_that_was_put_beside_an_older_version_is_not_served(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    (registry.root / version / "report.html").write_text("<p>forged</p>")
    with pytest.raises(RegistryError, match="has no report"):
        registry.report(version)


def test_a_report_that_was_changed_is_refused(registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained)["version"]
    (registry.root / version / "report.html").write_bytes(b"<p>retort</p>")
    with pytest.raises(RegistryError, match=r"the sha256 of its report is .*changed after publishing"):
        registry.report(version)


def test_a_report_that_is_gone_is_said(registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained)["version"]
    (registry.root / version / "report.html").unlink()
    with pytest.raises(RegistryError, match=f"{version}: its report cannot be read"):
        registry.report(version)


def test_a_report_whose_checksum_was_changed_as_well_is_refused(registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained)["version"]
    (registry.root / version / "report.html").write_bytes(b"<p>forged</p>")
    manifest = json.loads(manifest_of(registry, version).read_bytes())
    manifest["report_sha256"] = hashlib.sha256(b"<p>forged</p>").hexdigest()
    manifest_of(registry, version).write_text(json.dumps(manifest))
    with pytest.raises(RegistryError, match="signature does not match"):
        registry.report(version)


@pytest.mark.parametrize("version", [ABSENT, "../../etc", f"{ABSENT}/../x", ""])
def test_there_is_no_report_of_what_is_no_version(registry: Registry, publish: Publish, version: str) -> None:
    publish()
    with pytest.raises(RegistryError, match=r"there is no version|is not a version"):
        registry.report(version)


# versions and current


def test_a_folder_that_is_not_there_has_no_versions(registry: Registry) -> None:
    assert registry.versions() == []


def test_versions_are_folders_named_like_one(registry: Registry, publish: Publish) -> None:
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


@pytest.mark.parametrize(
    "content",
    ["", "latest", "../../etc", f"{ABSENT}/..", f"../{ABSENT}", f"{ABSENT}\n{ABSENT}", f"{ABSENT}\0", "x" * 10_000],
    ids=ascii,
)
def test_a_pointer_to_no_version_is_refused_with_what_came(registry: Registry, publish: Publish, content: str) -> None:
    publish()
    (registry.root / "current").write_text(content)
    with pytest.raises(RegistryError) as caught:
        registry.current()
    assert not isinstance(caught.value, NoModelError)
    assert f"{content[:80]!r} is not a version; one looks like 2026" in str(caught.value)


def test_a_pointer_that_is_no_text_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "current").write_bytes(b"\xff\xfe")
    with pytest.raises(RegistryError, match="current cannot be read"):
        registry.current()


def test_a_pointer_that_is_a_folder_is_refused(registry: Registry) -> None:
    (registry.root / "current").mkdir(parents=True)
    with pytest.raises(RegistryError, match="current cannot be read"):
        registry.current()


@pytest.mark.parametrize("version", ["", "..", "../key", "runs", f"{ABSENT}/../{ABSENT}", f"{ABSENT}\n"], ids=ascii)
def test_a_name_that_is_no_version_is_refused_everywhere(registry: Registry, version: str) -> None:
    for use in (registry.manifest, registry.read, registry.activate):
        with pytest.raises(RegistryError) as caught:
            use(version)
        assert f"{version!r} is not a version" in str(caught.value)


# Tampering. Whatever was changed, the version is refused and its name is said.


def assert_refused(registry: Registry, version: str, said: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.read(version)
    assert f"version {version}" in str(caught.value)
    assert said in str(caught.value)


def truncated(content: bytes) -> bytes:
    return content[:-1]


def extended(content: bytes) -> bytes:
    return content + b"."


def bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def emptied(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("change", [truncated, extended, bit_flipped, emptied])
def test_a_changed_pickle_is_refused_with_both_checksums(
    registry: Registry, publish: Publish, change: Callable[[bytes], bytes]
) -> None:
    manifest = publish()
    path = pickle_of(registry, manifest["version"])
    path.write_bytes(change(path.read_bytes()))
    assert_refused(
        registry, manifest["version"], f"the sha256 of its pickle is {hashlib.sha256(path.read_bytes()).hexdigest()}"
    )
    assert_refused(registry, manifest["version"], f"the manifest says {manifest['sha256']}")
    assert_refused(registry, manifest["version"], "activate another version")


def test_a_missing_pickle_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    pickle_of(registry, version).unlink()
    assert_refused(registry, version, "its pickle cannot be read")


def test_the_pickle_of_another_version_is_refused(registry: Registry, publish: Publish, other: bytes) -> None:
    first, second = publish()["version"], registry.publish(other, {})["version"]
    shutil.copy(pickle_of(registry, first), pickle_of(registry, second))
    assert_refused(registry, second, f"the sha256 of its pickle is {registry.manifest(first)['sha256']}")


def test_the_manifest_of_another_version_is_refused(registry: Registry, publish: Publish) -> None:
    first, second = publish()["version"], publish()["version"]
    shutil.copy(manifest_of(registry, first), manifest_of(registry, second))
    assert_refused(registry, second, f"its manifest is that of {first}")


def test_two_versions_that_changed_names_are_both_refused(registry: Registry, publish: Publish, other: bytes) -> None:
    """An old model must not come back under a newer one's name."""
    first, second = publish()["version"], registry.publish(other, {})["version"]
    (registry.root / first).rename(registry.root / "aside")
    (registry.root / second).rename(registry.root / first)
    (registry.root / "aside").rename(registry.root / second)
    assert_refused(registry, first, f"its manifest is that of {second}")
    assert_refused(registry, second, f"its manifest is that of {first}")


def test_a_replaced_pickle_with_its_checksum_in_the_manifest_is_refused(
    registry: Registry, publish: Publish, other: bytes
) -> None:
    version = publish()["version"]
    pickle_of(registry, version).write_bytes(other)
    path = manifest_of(registry, version)
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": hashlib.sha256(other).hexdigest()}))
    assert_refused(registry, version, f"its signature does not match the key in {registry.key_file}")


@pytest.mark.parametrize(
    "name",
    [
        *("version", "created_at", "sha256", "size_bytes", "dag_run_id", "data", "params"),
        *("metrics", "classes", "rows", "columns", "libraries", "golden", "histograms"),
    ],
)
def test_every_fact_of_the_manifest_is_signed(registry: Registry, publish: Publish, name: str) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    manifest = json.loads(path.read_text())
    for changed in ({**manifest, name: "forged"}, {k: v for k, v in manifest.items() if k != name}):
        path.write_text(json.dumps(changed))
        assert_refused(registry, version, "its signature does not match")


def test_a_fact_that_was_added_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))
    assert_refused(registry, version, "its signature does not match")


def test_an_unsigned_manifest_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "signature"}))
    assert_refused(registry, version, "its signature does not match")


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\ud800", None, True, 0, [], {}], ids=ascii)
def test_any_other_signature_is_refused(registry: Registry, publish: Publish, signature: Any) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    path.write_text(json.dumps({**json.loads(path.read_text()), "signature": signature}))
    assert_refused(registry, version, "signature")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda content: f"{content[:6]!r}-{len(content)}",
)
def test_what_is_no_json_is_refused(registry: Registry, publish: Publish, content: bytes) -> None:
    version = publish()["version"]
    manifest_of(registry, version).write_bytes(content)
    assert_refused(registry, version, "its manifest cannot be read")


@pytest.mark.parametrize("content", ["null", "[]", "{}", '"text"', "NaN", '{"signature": ""}'])
def test_json_that_is_no_manifest_is_refused(registry: Registry, publish: Publish, content: str) -> None:
    version = publish()["version"]
    manifest_of(registry, version).write_text(content)
    assert_refused(registry, version, "its signature does not match")


def test_a_truncated_manifest_is_refused(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    path.write_bytes(truncated(path.read_bytes()))
    assert_refused(registry, version, "its manifest cannot be read")


def test_a_version_that_is_not_there_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    assert_refused(registry, ABSENT, "its manifest cannot be read")


def test_a_version_signed_with_another_key_is_refused(registry: Registry, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "other key").write_text(secrets.token_hex(32))
    stranger = Registry(registry.root, tmp_path / "other key")
    version = stranger.publish(*trained)["version"]
    stranger.read(version)
    assert_refused(registry, version, f"does not match the key in {registry.key_file}")


def test_formatting_a_manifest_anew_changes_nothing(registry: Registry, publish: Publish) -> None:
    """It is the facts that are signed, not the bytes."""
    manifest = publish()
    path = manifest_of(registry, manifest["version"])
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert registry.manifest(manifest["version"])["metrics"] == manifest["metrics"]


def test_a_pickle_that_was_put_in_place_is_never_opened(
    registry: Registry,
    publish: Publish,
    bad: bytes,
    opened: Path,
    environment: Callable[[Registry], None],
) -> None:
    version = publish()["version"]
    pickle_of(registry, version).write_bytes(bad)
    environment(registry)
    assert_refused(registry, version, f"the sha256 of its pickle is {hashlib.sha256(bad).hexdigest()}")
    with pytest.raises(RegistryError):
        registry.activate(version)
    for command in (["list"], ["verify"], ["activate", version]):
        main(command)
    publish()
    assert not opened.exists()


# The key


def test_a_key_that_is_missing_is_named_with_what_makes_it(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    registry.key_file.unlink()
    for use in (publish, lambda: registry.read(version)):
        with pytest.raises(RegistryError) as caught:
            use()
        for said in (str(registry.key_file), "No such file", "make run", "MODEL_SIGNING_KEY_FILE"):
            assert said in str(caught.value)
    assert registry.versions() == [version]


@pytest.mark.parametrize("length", [0, 1, 31])
def test_a_short_key_is_refused_with_its_length(registry: Registry, publish: Publish, length: int) -> None:
    registry.key_file.write_text("k" * length)
    with pytest.raises(RegistryError) as caught:
        publish()
    assert f"{registry.key_file} has {length} bytes; it must have 32 or more" in str(caught.value)
    assert registry.versions() == []


def test_a_key_of_32_bytes_is_accepted(registry: Registry, publish: Publish) -> None:
    registry.key_file.write_text("k" * 32)
    registry.read(publish()["version"])


def test_a_line_end_after_the_key_changes_nothing(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    registry.key_file.write_bytes(registry.key_file.read_bytes() + b"\n")
    registry.read(version)


def test_a_new_key_holds_at_once(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    key = registry.key_file.read_bytes()
    registry.key_file.write_text(secrets.token_hex(32))
    assert_refused(registry, version, "does not match the key")
    registry.key_file.write_bytes(key)
    registry.read(version)


# Retention


def make_versions(registry: Registry, year: int, count: int) -> list[str]:
    """Make folders named like versions, newest first; only their names matter to retention."""
    names = [f"{year}01{day:02}T000000Z-0123abcd" for day in range(count, 0, -1)]
    for name in names:
        (registry.root / name).mkdir(parents=True)
        (registry.root / name / "model.pkl").write_bytes(b"")
    return names


def test_the_ten_newest_versions_are_kept(registry: Registry, publish: Publish) -> None:
    assert VERSIONS_KEPT == 10
    old = make_versions(registry, year=2020, count=12)
    version = publish()["version"]
    assert registry.versions() == [version, *old[:9]]


def test_up_to_ten_versions_nothing_is_removed(registry: Registry, publish: Publish) -> None:
    old = make_versions(registry, year=2020, count=9)
    assert registry.versions() == old
    version = publish()["version"]
    assert registry.versions() == [version, *old]


def test_the_serving_version_is_kept_however_old_its_name(registry: Registry, publish: Publish) -> None:
    """Where the clock was ahead when the others were published."""
    make_versions(registry, year=2090, count=12)
    version = publish()["version"]
    assert registry.current() == version
    registry.read(version)
    assert version in registry.versions()
    assert VERSIONS_KEPT <= len(registry.versions()) <= VERSIONS_KEPT + 1


def test_retention_leaves_all_else(registry: Registry, publish: Publish) -> None:
    make_versions(registry, year=2020, count=12)
    (registry.root / "notes").mkdir()
    (registry.run_folder("run") / "train.parquet").write_bytes(b"")
    publish()
    assert (registry.root / "notes").is_dir()
    assert (registry.root / "runs" / "run" / "train.parquet").exists()


# activate


def test_activate_makes_an_older_version_serve(registry: Registry, publish: Publish) -> None:
    first, second = publish()["version"], publish()["version"]
    registry.activate(first)
    assert registry.current() == first
    assert registry.versions() == [second, first]


def test_a_publish_after_a_rollback_serves(registry: Registry, publish: Publish) -> None:
    first = publish()["version"]
    publish()
    registry.activate(first)
    third = publish()["version"]
    assert registry.current() == third


@pytest.mark.parametrize("change", [truncated, bit_flipped])
@pytest.mark.parametrize("file", ["model.pkl", "manifest.json"])
def test_activate_refuses_a_damaged_version_and_leaves_what_serves(
    registry: Registry, publish: Publish, file: str, change: Callable[[bytes], bytes]
) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    path = registry.root / damaged / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RegistryError, match=damaged):
        registry.activate(damaged)
    assert registry.current() == serving


def test_activate_refuses_a_version_that_is_not_there(registry: Registry, publish: Publish) -> None:
    serving = publish()["version"]
    with pytest.raises(RegistryError, match=ABSENT):
        registry.activate(ABSENT)
    assert registry.current() == serving


# Crashes and concurrency


def test_leftovers_of_a_crashed_publisher_are_cleared(registry: Registry, publish: Publish) -> None:
    folder = registry.root / ".staging-0123"
    folder.mkdir(parents=True)
    (folder / "model.pkl").write_bytes(b"half")
    (registry.root / ".staging-4567").write_text("half a pointer")
    version = publish()["version"]
    assert sorted(p.name for p in registry.root.iterdir()) == sorted([".lock", version, "current"])


CRASHING_PUBLISHER = """
import os, signal, sys
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

os.fsync = stepping_flush
sys.addaudithook(step)
left = int(sys.argv[4])
registry.publish(pickled, {"metrics": {}})
"""


def test_a_kill_at_any_boundary_to_the_system_leaves_the_pointer_on_a_whole_version(
    registry: Registry, publish: Publish, other: bytes, tmp_path: Path
) -> None:
    (tmp_path / "other.pkl").write_bytes(other)
    arguments = [str(p) for p in (registry.root, registry.key_file, tmp_path / "other.pkl")]
    seen = set()
    for boundary in range(1, 200):
        serving = publish()["version"]
        before = set(registry.versions())
        publisher = subprocess.run(
            [sys.executable, "-c", CRASHING_PUBLISHER, *arguments, str(boundary)],
            check=False,
            timeout=60,
            env=ENVIRONMENT,
        )
        for version in registry.versions():
            registry.read(version)
        new = set(registry.versions()) - before
        moved = registry.current() != serving
        assert not moved or {registry.current()} == new
        if publisher.returncode == 0:
            break
        assert publisher.returncode == -signal.SIGKILL
        left = sorted(path.is_dir() for path in registry.root.glob(".staging-*"))
        seen.add((moved, bool(new), tuple(left)))
    assert publisher.returncode == 0, "the publish went on past 200 boundaries"
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


def test_a_rotated_key_signs_and_what_the_old_one_signed_stays_valid(
    registry: Registry, publish: Publish, command: Command
) -> None:
    old = publish()["version"]
    before = registry.key_file.read_text().split()
    mode = registry.key_file.stat().st_mode
    code, lines, _ = command("rotate-key")
    assert (code, str(registry.key_file) in lines[0]) == (0, True)
    new = publish()["version"]
    keys = registry.key_file.read_text().split()
    assert keys[1:] == before
    assert keys[0] not in before
    assert registry.key_file.stat().st_mode == mode
    assert command("verify")[0] == 0
    registry.key_file.write_text(keys[0])  # the old key is retired
    registry.read(new)
    with pytest.raises(RegistryError, match="signed with another key"):
        registry.read(old)


PUBLISHER = """
import sys
from pathlib import Path
from penguins.registry import Registry

registry = Registry(Path(sys.argv[1]), Path(sys.argv[2]))
pickled = Path(sys.argv[3]).read_bytes()
print("ready", flush=True)
sys.stdin.readline()
for number in range(4):
    print(registry.publish(pickled, {"number": number})["version"], flush=True)
"""


@pytest.mark.parametrize("same", [True, False], ids=["the same model", "different models"])
def test_two_publishers_at_once_both_publish_and_a_reader_sees_whole_versions(
    registry: Registry, publish: Publish, trained: Trained, other: bytes, tmp_path: Path, same: bool
) -> None:
    first = publish()["version"]
    (tmp_path / "a.pkl").write_bytes(trained[0])
    (tmp_path / "b.pkl").write_bytes(trained[0] if same else other)
    with (
        start_publisher(registry, tmp_path / "a.pkl") as a,
        start_publisher(registry, tmp_path / "b.pkl") as b,
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


def start_publisher(registry: Registry, pickle_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(registry.root), str(registry.key_file), str(pickle_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


# Folders of runs


@pytest.mark.parametrize("run_id", ["manual__2026-01-01T00:00:00+00:00", "v1.2", "run_7"])
def test_a_runs_folder_has_its_name(registry: Registry, run_id: str) -> None:
    folder = registry.run_folder(run_id)
    assert folder == registry.root / "runs" / run_id
    assert folder.is_dir()


@pytest.mark.parametrize("run_id", ["", ".", "..", "../..", "../../etc", "/etc", "a/b", "a\\b", "a\0b", ".hidden", "~"])
def test_a_runs_folder_stays_one_folder_under_runs(registry: Registry, run_id: str) -> None:
    folder = registry.run_folder(run_id)
    assert folder.resolve().parent == (registry.root / "runs").resolve()
    assert folder.is_dir()


def test_a_runs_folder_is_the_same_for_each_task(registry: Registry) -> None:
    (registry.run_folder("run") / "train.parquet").write_bytes(b"rows")
    assert (registry.run_folder("run") / "train.parquet").read_bytes() == b"rows"


def test_removing_the_runs_folders_leaves_the_versions(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    registry.run_folder("one")
    registry.run_folder("two")
    registry.remove_run_folders()
    assert not (registry.root / "runs").exists()
    registry.read(version)


def test_removing_no_runs_folders_is_no_error(registry: Registry) -> None:
    registry.remove_run_folders()
    assert not (registry.root / "runs").exists()


# The environment and the command line


@pytest.fixture
def command(
    registry: Registry, environment: Callable[[Registry], None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[str], str]]:
    """Run the command line on the registry; return exit code, lines of output, errors."""
    environment(registry)

    def command(*arguments: str) -> tuple[int, list[str], str]:
        code = main(list(arguments))
        output, errors = capsys.readouterr()
        return code, output.splitlines(), errors

    return command


Command = Callable[..., tuple[int, list[str], str]]


def test_the_environment_names_the_registry(registry: Registry, environment: Callable[[Registry], None]) -> None:
    environment(registry)
    assert Registry.from_environment() == registry


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_without_an_environment_it_is_the_checkouts(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for name in ("MODELS_DIR", "MODEL_SIGNING_KEY_FILE"):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    checkout = Path(__file__).parents[4]
    assert Registry.from_environment() == Registry(checkout / "models", checkout / ".local" / "model_signing.key")


def test_verify_prints_the_versions_newest_first_with_a_star_on_the_serving_one(
    registry: Registry, publish: Publish, command: Command
) -> None:
    manifest = publish()
    newer = publish()["version"]
    registry.activate(manifest["version"])
    said = f"accuracy {manifest['metrics']['accuracy']:.4f}  test"
    assert command("verify") == (0, [f"  {newer}  {said}", f"* {manifest['version']}  {said}"], "")


def test_verify_names_a_damaged_version_and_fails(registry: Registry, publish: Publish, command: Command) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    path = pickle_of(registry, damaged)
    path.write_bytes(bit_flipped(path.read_bytes()))
    code, lines, _ = command("verify")
    assert code == 1
    assert lines[0].startswith(f"* {serving}  accuracy")
    assert lines[1].startswith(f"  {damaged}  BAD: version {damaged}: the sha256 of its pickle is")


def test_verify_names_a_version_whose_report_was_changed(
    registry: Registry, trained: Trained, command: Command
) -> None:
    version = publish_with_report(registry, trained)["version"]
    assert command("verify")[0] == 0
    (registry.root / version / "report.html").write_text("<p>forged</p>")
    code, lines, _ = command("verify")
    assert code == 1
    assert lines[0].startswith(f"* {version}  BAD: version {version}: the sha256 of its report is")


def test_verify_prints_a_manifest_that_was_changed_as_bad(
    registry: Registry, publish: Publish, command: Command
) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    manifest_of(registry, damaged).write_text("{}")
    code, lines, _ = command("verify")
    assert code == 1
    assert lines[0].startswith(f"* {serving}  accuracy")
    assert lines[1].startswith(f"  {damaged}  BAD: version {damaged}: its signature does not match")


def test_verify_says_that_the_serving_version_is_gone(registry: Registry, publish: Publish, command: Command) -> None:
    version, gone = publish()["version"], publish()["version"]
    shutil.rmtree(registry.root / gone)
    code, lines, errors = command("verify")
    assert code == 1
    assert [line[:2] + line[2:].split()[0] for line in lines] == [f"  {version}"]
    assert errors == f"the serving version {gone} is missing\n"


@pytest.mark.parametrize("name", ["list", "verify"])
def test_before_the_first_model_the_command_line_says_what_to_do(command: Command, name: str) -> None:
    code, lines, errors = command(name)
    assert (code, lines) == (1, [])
    assert "trigger the DAG modelo_penguin" in errors


def test_activate_on_the_command_line_rolls_back(registry: Registry, publish: Publish, command: Command) -> None:
    first = publish()["version"]
    publish()
    assert command("activate", first) == (0, [f"{first} serves now"], "")
    assert registry.current() == first


@pytest.mark.parametrize("version", [ABSENT, "latest", "../key"])
def test_activate_on_the_command_line_refuses_what_is_no_version(
    registry: Registry, publish: Publish, command: Command, version: str
) -> None:
    serving = publish()["version"]
    code, lines, errors = command("activate", version)
    assert (code, lines) == (1, [])
    assert version in errors
    assert registry.current() == serving


def test_activate_on_the_command_line_refuses_a_damaged_version(
    registry: Registry, publish: Publish, command: Command
) -> None:
    damaged, serving = publish()["version"], publish()["version"]
    pickle_of(registry, damaged).write_bytes(b"")
    code, lines, errors = command("activate", damaged)
    assert (code, lines) == (1, [])
    assert f"version {damaged}: the sha256 of its pickle" in errors
    assert registry.current() == serving


@pytest.mark.parametrize("arguments", [[], ["remove"], ["activate"], ["list", "all"]], ids=" ".join)
def test_other_arguments_are_refused_with_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m penguins.registry" in capsys.readouterr().err


def test_the_command_line_needs_nothing_but_pythonpath(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    run = subprocess.run(
        [sys.executable, "-m", "penguins.registry", "verify"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=os.sep,
        env={**ENVIRONMENT, "MODELS_DIR": str(registry.root), "MODEL_SIGNING_KEY_FILE": str(registry.key_file)},
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"* {version}  accuracy")
