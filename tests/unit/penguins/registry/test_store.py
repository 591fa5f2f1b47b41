"""The registry: published whole or not at all, signed, and never opened unverified."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
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
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from penguins.inference import load_model
from penguins.registry import PROJECT, Keys, NoModelError, Registry, RegistryError, store
from penguins.registry.__main__ import main
from penguins.registry.run_files import remove_run_folders, run_folder
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
        monkeypatch.setenv("MODEL_SIGNING_KEY_FILE", str(registry.keys.private))

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
    monkeypatch.setenv("MODEL_PUBLIC_KEYS_FILE", "/others.pub")
    assert Registry.from_environment() == Registry(registry.root, Keys(registry.keys.private, Path("/others.pub")))
    checkout = Path(__file__).parents[4]
    keys = Keys(checkout / ".local" / "model_signing.key", checkout / ".local" / "model_signing.pub")
    for empty in (True, False):
        for name in ("MODELS_DIR", "MODEL_SIGNING_KEY_FILE", "MODEL_PUBLIC_KEYS_FILE"):
            monkeypatch.setenv(name, "") if empty else monkeypatch.delenv(name)
        assert Registry.from_environment() == Registry(checkout / "models", keys)


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
    (registry.root / ".last-pointer").unlink()  # which would count
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
    (registry.root / ".last-pointer").unlink()
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
    assert manifest.keys() >= {
        *("version", "created_at", "sha256", "size_bytes", "dag_run_id", "data", "params"),
        *("metrics", "classes", "rows", "columns", "libraries", "golden", "histograms"),
    }
    for name in [*manifest, "added"]:
        path.write_text(json.dumps({**manifest, name: "forged"}))
        assert_refused(registry, version, "its signature does not match")
    for name in manifest:
        path.write_text(json.dumps({k: v for k, v in manifest.items() if k != name}))
        assert_refused(registry, version, "its signature does not match")


def test_any_other_signature_or_none_is_refused(registry: Registry, publish: Publish) -> None:
    version, another = publish()["version"], publish()["version"]
    path = registry.root / version / "manifest.sig"
    signature = path.read_bytes()
    for other in (b"", bytes(64), signature[:-1], bit_flipped(signature), signature.hex()[:64].encode()):
        path.write_bytes(other)
        assert_refused(registry, version, "its signature does not match")
    shutil.copy(registry.root / another / "manifest.sig", path)
    assert_refused(registry, version, "its signature does not match")
    path.write_bytes(signature + b"\n")
    assert_refused(registry, version, "its manifest.sig cannot be read: it has 65 bytes; it may have 64 at most")
    path.unlink()
    assert_refused(registry, version, "its manifest.sig cannot be read: No such file or directory. Train again")


def test_what_is_signed_are_bytes_which_are_not_parsed_unless_they_match(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    path = manifest_of(registry, version)
    content = path.read_bytes()
    for other in (
        *(content + b"\n", json.dumps(json.loads(content)).encode(), truncated(content), b"", b"{", b"\xff\xfe"),
        *(b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"{}", b"NaN"),
    ):
        path.write_bytes(other)
        assert_refused(registry, version, "its signature does not match")


def test_a_manifest_that_is_not_there_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    assert_refused(registry, ABSENT, "its manifest.json cannot be read")


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
        assert_refused(registry, version, "activate a version that")
    path.write_bytes(pickled + b".")
    assert_refused(registry, version, f"it has {len(pickled) + 1:,} bytes; it may have {len(pickled):,} at most")
    path.unlink()
    assert_refused(registry, version, "its model.pkl cannot be read")


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
    assert_refused(registry, version, f"its signature does not match the public keys in {registry.keys.public}")


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
    assert made_from == [{k: v for k, v in manifest.items() if not k.startswith("report_")}]
    assert registry.read(manifest["version"])[0] == json.loads(json.dumps(manifest))


def test_a_report_that_was_changed_or_is_gone_is_refused(registry: Registry, trained: Trained) -> None:
    version = publish_with_report(registry, trained)["version"]
    path = registry.root / version / "report.html"
    path.write_bytes(b"<p>forged</p>")
    with pytest.raises(RegistryError, match=r"the sha256 of its report is .*changed after publishing"):
        registry.report(version)
    signed = manifest_of(registry, version).read_bytes()
    forged = {**json.loads(signed), "report_sha256": hashlib.sha256(b"<p>forged</p>").hexdigest()}
    manifest_of(registry, version).write_text(json.dumps(forged))
    with pytest.raises(RegistryError, match="signature does not match"):
        registry.report(version)
    manifest_of(registry, version).write_bytes(signed)
    path.unlink()
    with pytest.raises(RegistryError, match=f"{version}: its report.html cannot be read"):
        registry.report(version)


def test_the_reports_and_the_predictions_sizes_are_signed_and_bound_what_is_read(
    registry: Registry, trained: Trained
) -> None:
    manifest = registry.publish(*trained, make_report=lambda _: b"<p>", predictions=b"kept")
    version = manifest["version"]
    for name, prefix, read in (
        ("report.html", "report", registry.report),
        ("predictions.parquet", "predictions", registry.predictions),
    ):
        path = registry.root / version / name
        size = manifest[f"{prefix}_size_bytes"]
        assert size == path.stat().st_size
        path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(RegistryError, match=f"has {size + 1} bytes; it may have {size} at most"):
            read(version)


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
    (registry.root / version / "predictions.parquet").write_bytes(b"fork")
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


def test_a_version_is_two_files_and_a_signature(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    of_version = {f"{version}/{name}" for name in ("manifest.json", "manifest.sig", "model.pkl")}
    assert files_in(registry).keys() == {".lock", ".last-pointer", "current"} | of_version
    assert len((registry.root / version / "manifest.sig").read_bytes()) == 64
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
        folder = run_folder(registry.root, run_id)
        assert folder == registry.root / "runs" / run_id
        assert folder.is_dir()
    (run_folder(registry.root, "run") / "train.parquet").write_bytes(b"rows")
    assert (run_folder(registry.root, "run") / "train.parquet").read_bytes() == b"rows"


def test_a_runs_folder_stays_one_folder_under_runs(registry: Registry) -> None:
    for run_id in ("", ".", "..", "../..", "../../etc", "/etc", "a/b", "a\\b", "a\0b", ".hidden", "~"):
        folder = run_folder(registry.root, run_id)
        assert folder.resolve().parent == (registry.root / "runs").resolve(), run_id
        assert folder.is_dir()


def test_removing_the_runs_folders_leaves_the_versions(registry: Registry, publish: Publish) -> None:
    remove_run_folders(registry.root)  # no error where there are none
    version = publish()["version"]
    run_folder(registry.root, "one")
    run_folder(registry.root, "two")
    remove_run_folders(registry.root)
    assert not (registry.root / "runs").exists()
    registry.read(version)


# The keys


def test_a_rotated_key_signs_and_what_the_old_one_signed_stays_valid(registry: Registry, publish: Publish) -> None:
    old = publish()["version"]
    public, private = registry.keys.public.read_text().split(), registry.keys.private.read_text()
    registry.rotate_key()
    new = publish()["version"]
    lines = registry.keys.public.read_text().split()
    assert lines[1:] == public
    assert lines[0] not in public
    assert registry.keys.private.read_text() != private
    assert registry.keys.private.stat().st_mode & 0o777 == 0o600
    assert registry.keys.public.stat().st_mode & 0o777 == 0o644
    for version in (old, new):
        registry.read(version)
    registry.keys.public.write_text(lines[0])  # the old key is retired
    registry.read(new)
    with pytest.raises(RegistryError, match="signed with another key"):
        registry.read(old)


def test_whoever_has_only_the_public_keys_verifies_and_is_told_why_it_cannot_sign(
    registry: Registry, publish: Publish, environment: Callable[[Registry], None], capsys: pytest.CaptureFixture[str]
) -> None:
    version = publish()["version"]
    registry.keys.private.unlink()
    before = files_in(registry)
    environment(registry)
    assert [main([name]) for name in ("verify", "list")] == [0, 0]
    registry.root.chmod(0o555)  # as it is mounted where the service runs
    try:
        assert [main([*arguments]) for arguments in (["activate", version], ["rotate-key"])] == [1, 1]
        with pytest.raises(RegistryError) as caught:
            publish()
    finally:
        registry.root.chmod(0o755)
    for error in (*capsys.readouterr().err.splitlines(), str(caught.value)):
        for said in (str(registry.keys.private), "No such file", "airflow-scheduler", "MODEL_SIGNING_KEY_FILE"):
            assert said in error
    assert files_in(registry) == before


def test_a_version_signed_with_another_key_is_refused_from_the_moment_the_keys_are_others(
    registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]
    keys, private = registry.keys.public.read_bytes(), registry.keys.private.read_bytes()
    registry.keys.public.unlink()
    with pytest.raises(RegistryError, match=f"{registry.keys.public} cannot be read: No such .*MODEL_PUBLIC_KEYS_FILE"):
        registry.read(version)
    registry.keys.private.unlink()
    (problem,) = registry.init()
    assert f"version {version}: its signature does not match the public keys in {registry.keys.public}" in problem
    assert_refused(registry, version, "signed with another key")
    registry.keys.public.write_bytes(keys + b"\n")  # a line end changes nothing
    registry.read(version)
    registry.keys.public.unlink()
    registry.keys.private.write_bytes(private)
    assert registry.init() == []  # the public key comes from the private one
    registry.read(version)


def test_init_changes_nothing_where_the_keys_are_and_makes_one_in_place_of_an_empty_file(
    registry: Registry, publish: Publish
) -> None:
    version = publish()["version"]
    files = (registry.keys.private, registry.keys.public)
    before = [(path.read_bytes(), path.stat().st_ino) for path in files]
    assert registry.init() == []
    assert [(path.read_bytes(), path.stat().st_ino) for path in files] == before
    registry.keys.private.write_text("")
    assert registry.init() == []  # the public one is kept, so nothing is wrong with the version
    assert registry.keys.public.read_bytes().endswith(before[1][0])
    registry.read(version)
    registry.read(publish()["version"])


def test_a_key_that_is_none_is_refused_and_nothing_of_it_is_said(registry: Registry, publish: Publish) -> None:
    version = publish()["version"]
    rsa = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"k" * 31, b"k" * 40, truncated(registry.keys.private.read_bytes())[:60], rsa, b"\xff" * 40):
        registry.keys.private.write_bytes(content)
        for use in (publish, registry.rotate_key):
            with pytest.raises(RegistryError, match=f"{registry.keys.private} is not an Ed25519 key in PEM") as caught:
                use()
            assert content[-20:].decode(errors="replace") not in str(caught.value)
        assert registry.versions() == [version]
    public = registry.keys.public.read_bytes()
    for content in (b"k" * 43, b"\xff" * 32, b"A" * 48):
        registry.keys.public.write_bytes(content + b"\n" + public)
        with pytest.raises(RegistryError, match="what stands in place 1 is not a key, 32 bytes in base64"):
            registry.read(version)


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
    unsigned = [*make_versions(registry, year=2090, count=6), *make_versions(registry, year=2020, count=6)]
    (registry.root / "notes").mkdir()
    (run_folder(registry.root, "run") / "train.parquet").write_bytes(b"")
    published = [publish()["version"] for _ in range(12)]
    assert registry.versions() == [*unsigned[:6], *published[:1:-1], *unsigned[6:10]]
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
from penguins.registry import Keys, Registry

registry = Registry(Path(sys.argv[1]), Keys(Path(sys.argv[2]), Path(sys.argv[3])))
pickled, left = Path(sys.argv[4]).read_bytes(), 0

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
from penguins.registry import Keys, Registry

registry = Registry(Path(sys.argv[1]), Keys(Path(sys.argv[2]), Path(sys.argv[3])))
pickles = [Path(path).read_bytes() for path in sys.argv[4:]]
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
        [sys.executable, "-c", code, *map(str, (registry.root, registry.keys.private, registry.keys.public, *pickles))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
