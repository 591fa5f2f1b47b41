"""The models on the shared volume: published whole or not at all, signed, and never opened unverified.

Layout of `MODELS_DIR`::

    <version>/model.pkl  manifest.json  report.html  predictions.parquet   immutable once visible
    current                                           one line: the version that serves
    runs/<run_id>/                                    a run's work

The command line, `python -m penguins.registry`, is `__main__.py` beside this file.
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
    """A version that is not there, not whole or not signed with this key."""


class NoModelError(RegistryError):
    """Nothing was published yet."""


@dataclass(frozen=True)
class Registry:
    """The versions in one folder, signed with one key.

    Parameters
    ----------
    root : Path
    key_file : Path
        One key a line, 32 bytes or more each. The first signs; a signature by any of them is accepted. It is read at
        each use, so that a new key needs no restart.
    """

    root: Path
    key_file: Path

    @classmethod
    def from_environment(cls) -> Registry:
        """Return the registry that `MODELS_DIR` and `MODEL_SIGNING_KEY_FILE` name; without them, the checkout's."""
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
        """Return the version that serves.

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
        came = str(signature).encode(errors="replace")
        if not any(hmac.compare_digest(came, _signature(key, manifest).encode()) for key in self._keys()):
            raise RegistryError(
                f"version {version}: its signature does not match the key in {self.key_file}. It was changed after "
                "publishing, or signed with another key. Train again, or activate another version."
            )
        if manifest["version"] != version:
            raise RegistryError(f"version {version}: its manifest is that of {manifest['version']}")
        return manifest

    def read(self, version: str) -> tuple[dict[str, Any], bytes]:
        """Return the manifest and the pickle's bytes, both verified; RegistryError otherwise."""
        manifest = self.manifest(version)
        return manifest, self._verified(manifest, "model.pkl", "pickle", "sha256")

    def report(self, version: str) -> bytes:
        """Return a version's report as it was published, or raise RegistryError."""
        return self._verified(self._published(version), "report.html", "report", "report_sha256")

    def predictions(self, version: str) -> bytes:
        """Return what a version keeps for the next gate (`gate.Predictions`), or raise RegistryError."""
        return self._verified(self._published(version), "predictions.parquet", "predictions", "predictions_sha256")

    def _published(self, version: str) -> dict[str, Any]:
        if _checked(version) not in self.versions():
            raise RegistryError(f"there is no version {version}.")
        return self.manifest(version)

    def _verified(self, manifest: Mapping[str, Any], name: str, what: str, sum_name: str) -> bytes:
        """Return one of a version's files, held against the checksum in its verified manifest."""
        version = manifest["version"]
        if sum_name not in manifest:
            raise RegistryError(
                f"version {version} has no {what}: it was published without. Trigger the DAG modelo_penguin: "
                "every new version has its own."
            )
        try:
            content = (self.root / version / name).read_bytes()
        except OSError as error:
            raise RegistryError(f"version {version}: its {what} cannot be read: {error}") from error
        if (sha256 := hashlib.sha256(content).hexdigest()) != manifest[sum_name]:
            raise RegistryError(
                f"version {version}: its {what}'s sha256 is {sha256}, the manifest says {manifest[sum_name]}. "
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
        """Write a version and make it the one that serves.

        The version is written beside, flushed to disk and renamed into place; then the pointer is replaced. A crash
        at any point leaves `current` on a whole version.

        Parameters
        ----------
        pickled : bytes
        facts : mapping
            JSON values for the manifest, besides version, created_at, sha256 and size_bytes, which are added.
        make_report : callable, optional
            Returns the version's report.html from its manifest, which then holds `report_sha256` as well.
        predictions : bytes, optional
            For the next gate, as `gate.Predictions.to_bytes` gives them; the manifest holds `predictions_sha256`.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        RegistryError
            If it cannot be written, for example because the disk is full. What served, serves on.
        """
        sha256 = hashlib.sha256(pickled).hexdigest()
        with self._writing():
            created_at = self._next_second()
            version = f"{created_at:{_TIME}}-{sha256[:8]}"
            manifest = {
                **facts,
                "version": version,
                "created_at": created_at.isoformat().replace("+00:00", "Z"),
                "sha256": sha256,
                "size_bytes": len(pickled),
            }
            staging = self._beside()
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
        """Make a version serve, once it is verified. This is the rollback."""
        with self._writing():
            self.read(version)
            self._point_to(version)

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run's work, made if need be."""
        # Airflow lets a run be named freely; here it must stay one folder of that name.
        folder = self.root / "runs" / (re.sub(r"[^\w.:+-]", "_", run_id).lstrip(".") or "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_run_folders(self) -> None:
        """Remove what finished and failed runs left."""
        shutil.rmtree(self.root / "runs", ignore_errors=True)

    def rotate_key(self) -> None:
        """Put a new key before the others: it signs from now on, and what they signed stays valid."""
        old = self.key_file.stat()
        beside = self.key_file.with_suffix(".new")
        keys = [base64.urlsafe_b64encode(secrets.token_bytes(32)), *self._keys()]
        beside.touch(mode=0o600)
        os.chown(beside, old.st_uid, old.st_gid)
        beside.chmod(old.st_mode & 0o777)
        _write(beside, b"\n".join(keys) + b"\n")
        beside.replace(self.key_file)

    def _keys(self) -> list[bytes]:
        try:
            keys = self.key_file.read_bytes().split()
        except OSError as error:
            raise RegistryError(
                f"the signing key {self.key_file} cannot be read: {error.strerror}. It is made by `make run` and by "
                "the stack's first start; MODEL_SIGNING_KEY_FILE names another."
            ) from error
        shortest = min(map(len, keys), default=0)
        if shortest < 32:
            raise RegistryError(f"the signing key {self.key_file} has {shortest} bytes; accepted are 32 or more")
        return keys

    def _next_second(self) -> datetime:
        """Return now, or a second after the newest version: names sort by age, and none is given twice."""
        now = datetime.now(UTC).replace(microsecond=0)
        for newest in self.versions()[:1]:
            now = max(
                now, datetime.strptime(newest.partition("-")[0], _TIME).replace(tzinfo=UTC) + timedelta(seconds=1)
            )
        return now

    def _point_to(self, version: str) -> None:
        beside = self._beside()
        _write(beside, f"{version}\n".encode())
        beside.replace(self.root / "current")
        _flush_folder(self.root)

    def _beside(self) -> Path:
        return self.root / f"{_STAGING}{uuid.uuid4().hex}"

    def _remove_leftovers(self) -> None:
        # Only the holder of the lock writes these, so what is there now is a crashed publisher's.
        for path in self.root.glob(f"{_STAGING}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _prune(self) -> None:
        serving = self.current()
        for version in self.versions()[VERSIONS_KEPT:]:
            if version != serving:
                # Out of sight in one step, and then removed as a leftover: a version is whole or not there.
                (self.root / version).rename(self._beside())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only one who writes, and leave nothing half written behind."""
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
                f"{self.root} cannot be written: {error.strerror}. The version that serves is whole and goes on; "
                "make room or mend the volume, then run the DAG again."
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
