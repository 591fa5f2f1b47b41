"""The models on the shared volume: published atomically, signed, and never unpickled unverified.

Layout of `MODELS_DIR`::

    <version>/model.pkl  manifest.json  report.html  predictions.parquet   immutable once visible
    current                                           one line: the serving version
    runs/<run_id>/                                    a run's working files

The command line, `python -m penguins.registry`, is `__main__.py` next to this file.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
VERSIONS_KEPT = 10
VERSION_PATTERN = "[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
_VERSION = re.compile(VERSION_PATTERN)
_TIME = "%Y%m%dT%H%M%SZ"
_STAGING = ".staging-"


class RegistryError(RuntimeError):
    """A version is missing, incomplete or not signed with this key."""


class NoModelError(RegistryError):
    """Nothing has been published yet."""


@dataclass(frozen=True)
class Registry:
    """The versions in one folder, signed with one key.

    Parameters
    ----------
    root : Path
    key_file : Path
        One key per line, 32 bytes or more each. The first one signs; signatures by any of them are accepted. The file
        is read at each use, so that a new key needs no restart.
    """

    root: Path
    key_file: Path

    @classmethod
    def from_environment(cls) -> Registry:
        """Return the registry that `MODELS_DIR` and `MODEL_SIGNING_KEY_FILE` name; by default, the checkout's."""
        return cls(
            root=Path(os.environ.get("MODELS_DIR") or PROJECT / "models"),
            key_file=Path(os.environ.get("MODEL_SIGNING_KEY_FILE") or PROJECT / ".local" / "model_signing.key"),
        )

    def versions(self) -> list[str]:
        """Return the versions, newest first."""
        try:
            names = [entry.name for entry in os.scandir(self.root) if entry.is_dir()]
        except FileNotFoundError:
            return []
        return sorted((name for name in names if _VERSION.fullmatch(name)), reverse=True)

    def current(self) -> str:
        """Return the serving version.

        Raises
        ------
        NoModelError
            Before the first publish.
        RegistryError
            If the pointer holds anything but a version's name.
        """
        try:
            version = (self.root / "current").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            raise NoModelError(f"there is no model in {self.root} yet: trigger the DAG modelo_penguin") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryError(f"{self.root / 'current'} cannot be read: {error}") from error
        return _checked(version)

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest, or raise RegistryError if it is missing or not signed with this key."""
        path = self.root / _checked(version) / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise RegistryError(f"version {version}: its manifest cannot be read: {error}") from error
        signature = manifest.pop("signature", "") if isinstance(manifest, dict) else ""
        actual = str(signature).encode(errors="replace")
        if not any(hmac.compare_digest(actual, _signature(key, manifest).encode()) for key in self._keys()):
            raise RegistryError(
                f"version {version}: its signature does not match the key in {self.key_file}. It was changed after "
                "publishing, or signed with another key. Train again, or activate another version."
            )
        if manifest["version"] != version:
            raise RegistryError(f"version {version}: its manifest is that of {manifest['version']}")
        return manifest

    def read(self, version: str) -> tuple[dict[str, Any], bytes]:
        """Return the manifest and the pickle's bytes, both verified, or raise RegistryError."""
        manifest = self.manifest(version)
        return manifest, self._verified(manifest, "model.pkl", "pickle", "sha256")

    def report(self, version: str) -> bytes:
        """Return a version's report as it was published, or raise RegistryError."""
        return self._verified(self._published(version), "report.html", "report", "report_sha256")

    def predictions(self, version: str) -> bytes:
        """Return the predictions that a version keeps for the next gate, or raise RegistryError."""
        return self._verified(self._published(version), "predictions.parquet", "predictions", "predictions_sha256")

    def _published(self, version: str) -> dict[str, Any]:
        if _checked(version) not in self.versions():
            raise RegistryError(f"there is no version {version}.")
        return self.manifest(version)

    def _verified(self, manifest: Mapping[str, Any], name: str, what: str, sum_name: str) -> bytes:
        """Return one of a version's files, checked against the checksum in its verified manifest."""
        version = manifest["version"]
        if sum_name not in manifest:
            raise RegistryError(
                f"version {version} has no {what}: older versions were published without. Trigger the DAG "
                "modelo_penguin: every new version has its own."
            )
        try:
            content = (self.root / version / name).read_bytes()
        except OSError as error:
            raise RegistryError(f"version {version}: its {what} cannot be read: {error}") from error
        if (sha256 := hashlib.sha256(content).hexdigest()) != manifest[sum_name]:
            raise RegistryError(
                f"version {version}: the sha256 of its {what} is {sha256}, but the manifest says "
                f"{manifest[sum_name]}. "
                "It was changed after publishing. Train again, or activate another version."
            )
        return content

    def publish(
        self,
        pickled: bytes,
        facts: Mapping[str, Any],
        make_report: Callable[[Mapping[str, Any]], bytes] | None = None,
        predictions: bytes | None = None,
    ) -> dict[str, Any]:
        """Write a version and make it the serving one.

        The version is written to a staging folder, flushed to disk and renamed into place; then the pointer is
        replaced. Both renames are atomic: a crash at any point leaves `current` on a complete version.

        Parameters
        ----------
        pickled : bytes
        facts : mapping
            JSON values for the manifest, to which version, created_at, sha256 and size_bytes are added.
        make_report : callable, optional
            Returns the version's report.html, given its manifest, which then holds `report_sha256` as well.
        predictions : bytes, optional
            For the next gate, from `Predictions.to_bytes`; the manifest then holds `predictions_sha256`.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        RegistryError
            If it cannot be written, for example because the disk is full. The serving version stays.
        """
        sha256 = hashlib.sha256(pickled).hexdigest()
        with self._write_lock():
            created_at = self._next_second()
            version = f"{created_at:{_TIME}}-{sha256[:8]}"
            manifest = {
                **facts,
                "version": version,
                "created_at": created_at.isoformat().replace("+00:00", "Z"),
                "sha256": sha256,
                "size_bytes": len(pickled),
            }
            staging = self._staging_path()
            staging.mkdir()
            if predictions is not None:
                manifest["predictions_sha256"] = hashlib.sha256(predictions).hexdigest()
                _write(staging / "predictions.parquet", predictions)
            if make_report:
                report = make_report(manifest)
                manifest["report_sha256"] = hashlib.sha256(report).hexdigest()
                _write(staging / "report.html", report)
            signed = {**manifest, "signature": _signature(self._keys()[0], manifest)}
            _write(staging / "model.pkl", pickled)
            _write(staging / "manifest.json", json.dumps(signed, indent=2, allow_nan=False).encode())
            _flush_folder(staging)
            staging.rename(self.root / version)
            _flush_folder(self.root)
            self._point_to(version)
            self._prune()
        return manifest

    def activate(self, version: str) -> None:
        """Verify a version and make it the serving one. This is the rollback."""
        with self._write_lock():
            self.read(version)
            self._point_to(version)

    def run_folder(self, run_id: str) -> Path:
        """Return the folder for a run's working files. It is created if necessary."""
        # Airflow allows any run id; here it must stay a single folder name.
        folder = self.root / "runs" / (re.sub(r"[^\w.:+-]", "_", run_id).lstrip(".") or "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_run_folders(self) -> None:
        """Remove what finished and failed runs left behind."""
        shutil.rmtree(self.root / "runs", ignore_errors=True)

    def rotate_key(self) -> None:
        """Put a new key before the others: it signs from now on, and their signatures stay valid."""
        old = self.key_file.stat()
        new_file = self.key_file.with_suffix(".new")
        keys = [base64.urlsafe_b64encode(secrets.token_bytes(32)), *self._keys()]
        new_file.touch(mode=0o600)
        os.chown(new_file, old.st_uid, old.st_gid)
        new_file.chmod(old.st_mode & 0o777)
        _write(new_file, b"\n".join(keys) + b"\n")
        new_file.replace(self.key_file)

    def _keys(self) -> list[bytes]:
        try:
            keys = self.key_file.read_bytes().split()
        except OSError as error:
            raise RegistryError(
                f"the signing key {self.key_file} cannot be read: {error.strerror}. It is created by `make run` and "
                "by the stack's first start. Set MODEL_SIGNING_KEY_FILE to use another."
            ) from error
        shortest = min(map(len, keys), default=0)
        if shortest < 32:
            raise RegistryError(f"the signing key {self.key_file} has {shortest} bytes; it must have 32 or more")
        return keys

    def _next_second(self) -> datetime:
        """Return now, or one second after the newest version, so that names sort by age and are unique."""
        now = datetime.now(UTC).replace(microsecond=0)
        for newest in self.versions()[:1]:
            now = max(
                now, datetime.strptime(newest.partition("-")[0], _TIME).replace(tzinfo=UTC) + timedelta(seconds=1)
            )
        return now

    def _point_to(self, version: str) -> None:
        pointer = self._staging_path()
        _write(pointer, f"{version}\n".encode())
        pointer.replace(self.root / "current")
        _flush_folder(self.root)

    def _staging_path(self) -> Path:
        return self.root / f"{_STAGING}{uuid.uuid4().hex}"

    def _remove_leftovers(self) -> None:
        # Only the holder of the lock writes these, so any that exist were left by a crashed publisher.
        for path in self.root.glob(f"{_STAGING}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _prune(self) -> None:
        serving = self.current()
        for version in self.versions()[VERSIONS_KEPT:]:
            if version != serving:
                # Renamed in one step, then removed as a leftover: a version is complete or does not exist.
                (self.root / version).rename(self._staging_path())

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Hold the write lock, and leave no half-written files behind."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._remove_leftovers()
                try:
                    yield
                finally:
                    self._remove_leftovers()
        except OSError as error:
            raise RegistryError(
                f"{self.root} cannot be written: {error.strerror}. The serving version is complete and stays in "
                "use; free some space or repair the volume, then run the DAG again."
            ) from error


def _signature(key: bytes, manifest: Any) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()


def _checked(version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise RegistryError(f"{version[:80]!r} is not a version; one looks like 20260131T235959Z-0123abcd")
    return version


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
