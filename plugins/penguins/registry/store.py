"""The models on the shared volume: published atomically, signed, and never unpickled unverified.

Layout of `MODELS_DIR`::

    <version>/model.pkl  manifest.json  report.html  predictions.parquet   immutable once visible
    current                                           the serving version on its first line, then its signature
    .last-pointer                                     the same again: an older `current` that is put back shows
    runs/<run_id>/                                    a run's working files

Whoever may write there and has no key can spoil a publish, but neither make the service open what was not signed, nor
stop its watch, nor take it back to an older version unseen.

The command line, `python -m penguins.registry`, is `__main__.py` next to this file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from penguins.files import MEBIBYTE, RefusedError, flush_folder, open_lock, read_file, write_file
from penguins.registry.errors import NoModelError, RegistryError, reason
from penguins.registry.keys import add_key, is_signed, read_keys, signature
from penguins.registry.names import FUTURE, checked, is_version, name_of, time_of
from penguins.registry.pointer import Pointer, move_pointer, read_pointer

PROJECT = Path(__file__).resolve().parents[3]
VERSIONS_KEPT = 10
_STAGING = ".staging-"
_LONGEST_NAME = 200  # bytes; file systems take 255, some that encrypt 143
# What a file may have at most. A pickle may have as many bytes as its signed manifest says.
_LIMITS = {"manifest.json": 2 * MEBIBYTE, "report.html": 4 * MEBIBYTE, "predictions.parquet": 64 * MEBIBYTE}

log = logging.getLogger(__name__)


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
        """Return the versions, newest first. A link to a folder is none."""
        return sorted((entry.name for entry in self._named_as_versions() if not entry.is_symlink()), reverse=True)

    def _named_as_versions(self) -> list[os.DirEntry[str]]:
        """Return the folders that are named like a version, and the links."""
        try:
            entries = [entry for entry in os.scandir(self.root) if is_version(entry.name)]
        except FileNotFoundError:
            return []
        return [entry for entry in entries if entry.is_symlink() or entry.is_dir(follow_symlinks=False)]

    def current(self) -> str:
        """Return the serving version, or raise as `pointer` does."""
        return self.pointer().current

    def pointer(self, seen: Pointer | None = None) -> Pointer:
        """Return the pointer to the serving version.

        Parameters
        ----------
        seen : Pointer, optional
            The last one that the caller has seen. Without it, an older one only shows by what the folder holds, which
            whoever put it back may have put back as well.

        Raises
        ------
        NoModelError
            Before the first publish, or the first activation.
        RegistryError
            If it names no version, is not signed, or is older than another one.
        """
        return read_pointer(self.root, self.key_file, seen)

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest, or raise RegistryError if it is missing or not signed with this key."""
        try:
            manifest = json.loads(self._read(version, "manifest.json"))
        except (OSError, ValueError, RecursionError) as error:
            raise RegistryError(f"version {version}: its manifest cannot be read: {reason(error)}") from error
        claimed = manifest.pop("signature", "") if isinstance(manifest, dict) else ""
        if not is_signed(manifest, claimed, read_keys(self.key_file)):
            raise RegistryError(
                f"version {version}: its signature does not match the key in {self.key_file}. It was changed after "
                "publishing, or signed with another key. Train again, or activate another version."
            )
        if (named := manifest.get("version")) != version:
            raise RegistryError(f"version {version}: its manifest is that of {named}")
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
        if checked(version) not in self.versions():
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
            content = self._read(version, name, limit=manifest["size_bytes"] if name == "model.pkl" else None)
        except OSError as error:
            raise RegistryError(f"version {version}: its {what} cannot be read: {reason(error)}") from error
        if (sha256 := hashlib.sha256(content).hexdigest()) != manifest[sum_name]:
            raise RegistryError(
                f"version {version}: the sha256 of its {what} is {sha256}, but the manifest says "
                f"{manifest[sum_name]}. "
                "It was changed after publishing. Train again, or activate another version."
            )
        return content

    def _read(self, version: str, name: str, limit: int | None = None) -> bytes:
        folder = self.root / checked(version)
        if folder.is_symlink():
            raise RefusedError(f"{folder} is a symbolic link, which is no version")
        return read_file(folder / name, limit=_LIMITS[name] if limit is None else limit)

    def publish(
        self,
        pickled: bytes,
        facts: Mapping[str, Any],
        make_report: Callable[[Mapping[str, Any]], bytes] | None = None,
        predictions: bytes | None = None,
        activate: bool = True,
    ) -> dict[str, Any]:
        """Write a version and make it the serving one, unless `activate` is false: `waiting.py` says what it is then.

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
        activate : bool
            False leaves `current` where it is; the manifest then holds that.

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
            created_at = self._next_second(sha256)
            version = name_of(created_at, sha256)
            manifest = {
                **facts,
                "version": version,
                "created_at": created_at.isoformat().replace("+00:00", "Z"),
                "sha256": sha256,
                "size_bytes": len(pickled),
                **({} if activate else {"activate": False}),
            }
            staging = self._staging_path()
            staging.mkdir()
            if predictions is not None:
                manifest["predictions_sha256"] = hashlib.sha256(predictions).hexdigest()
                write_file(staging / "predictions.parquet", predictions)
            if make_report:
                report = make_report(manifest)
                manifest["report_sha256"] = hashlib.sha256(report).hexdigest()
                write_file(staging / "report.html", report)
            signed = {**manifest, "signature": signature(read_keys(self.key_file)[0], manifest)}
            write_file(staging / "model.pkl", pickled)
            write_file(staging / "manifest.json", json.dumps(signed, indent=2, allow_nan=False).encode())
            flush_folder(staging)
            staging.rename(self.root / version)
            flush_folder(self.root)
            if activate:
                self._point_to(version)
            self._prune()
        return manifest

    def activate(self, version: str) -> None:
        """Verify a version and make it the serving one. This is the rollback, and a release's second step."""
        with self._write_lock():
            self._point_to(version, release="activate" in self.read(version)[0])

    def run_folder(self, run_id: str) -> Path:
        """Return the folder for a run's working files. It is created if necessary."""
        # Airflow allows any run id; here it must stay a single folder name. Where it cannot, a hash follows.
        name = re.sub(r"[^\w.:+-]", "_", run_id).lstrip(".") or "_"
        if name != run_id or len(name.encode()) > _LONGEST_NAME:
            digest = hashlib.sha256(run_id.encode(errors="surrogatepass")).hexdigest()[:16]
            name = f"{name.encode()[: _LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}-{digest}"
        folder = self.root / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove_run_folders(self) -> None:
        """Remove what finished and failed runs left behind."""
        shutil.rmtree(self.root / "runs", ignore_errors=True)

    def rotate_key(self) -> None:
        """Put a new key before the others: it signs from now on, and their signatures stay valid."""
        with self._lock():
            add_key(self.key_file)

    def _next_second(self, sha256: str) -> datetime:
        """Return now, or one second after the newest version, so that names sort by age and are unique.

        Only signed versions count, and none from the future.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        for version in self.versions():
            if not now <= (time := time_of(version)) <= now + FUTURE:
                continue
            try:
                self.manifest(version)
            except RegistryError:
                continue
            now = time + timedelta(seconds=1)
            break
        while os.path.lexists(self.root / name_of(now, sha256)):  # what is not signed may have the name
            now += timedelta(seconds=1)
        return now

    def _point_to(self, version: str, *, release: bool = False) -> None:
        move_pointer(self.root, self.key_file, version, self._staging_path, release=release)

    def _staging_path(self) -> Path:
        return self.root / f"{_STAGING}{uuid.uuid4().hex}"

    def _remove_leftovers(self) -> None:
        # Only the holder of the lock writes these, so any that exist were left by a crashed publisher.
        for path in self.root.glob(f"{_STAGING}*"):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            except OSError as error:  # it is in nobody's way
                log.warning("%s cannot be removed: %s", path, error.strerror)

    def _prune(self) -> None:
        for entry in self._named_as_versions():
            if entry.is_symlink():
                Path(entry).unlink()
        try:
            serving = self.current()
        except NoModelError:
            serving = ""
        except RegistryError:  # nothing is removed while nobody knows what serves
            return
        for version in self.versions()[VERSIONS_KEPT:]:
            if version != serving:
                # Renamed in one step, then removed as a leftover: a version is complete or does not exist.
                (self.root / version).rename(self._staging_path())

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Hold the lock, and leave no half-written files behind."""
        with self._lock():
            try:
                self._remove_leftovers()
                try:
                    yield
                finally:
                    self._remove_leftovers()
            except OSError as error:
                raise self._unwritable(error) from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context(open_lock(self.root / ".lock")), fcntl.LOCK_EX)
            except RefusedError as error:
                raise RegistryError(f"{self.root / '.lock'} cannot be locked: {error}. Remove it.") from error
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def _unwritable(self, error: OSError) -> RegistryError:
        return RegistryError(
            f"{self.root} cannot be written: {reason(error)}. The serving version is complete and stays in "
            "use; free some space or repair the volume, then run the DAG again."
        )
