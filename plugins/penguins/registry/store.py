"""The models on the shared volume: published atomically, signed, and never unpickled unverified.

Layout of `MODELS_DIR`::

    <version>/model.pkl  report.html  predictions.parquet   immutable once visible
    <version>/manifest.json  manifest.sig                   their checksums and all other facts, and what signs these
    current                                                 the serving version on its first line, then its signature
    .last-pointer                                           the same again: the newer one of the two counts
    runs/<run_id>/                                          a run's working files

Whoever may write there and has no private key can spoil a publish, but neither make the service open what was not
signed, nor stop its watch, nor take it back to an older version unseen.

The command line, `python -m penguins.registry`, is `__main__.py` next to this file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from penguins.files import MEBIBYTE, RefusedError, flush_folder, is_locked, read_file, write_file
from penguins.registry.errors import BeingPublishedError, NoModelError, RegistryError, reason
from penguins.registry.names import FUTURE, checked, is_version, name_of, time_of
from penguins.registry.pointer import CURRENT, WAY_IN, Pointer, move_pointer, read_pointer
from penguins.registry.signing import Keys
from penguins.registry.upgrade import old_keys, sign_anew
from penguins.registry.writing import lock_of, staging_path, write_lock
from penguins.schema import NAME

VERSIONS_KEPT = 10
PROJECT = Path(__file__).resolve().parents[3]
# Each file of a version, and the beginning of the names of its checksum and size in the manifest.
_FILES = {
    "pickle": ("model.pkl", ""),
    "report": ("report.html", "report_"),
    "predictions": ("predictions.parquet", "predictions_"),
}
_MAX_MANIFEST_BYTES, _MAX_SIGNATURE_BYTES = 16 * MEBIBYTE, 64
_MAX_UNSIZED_BYTES = 64 * MEBIBYTE  # older manifests do not say how long the report and the predictions are


def _identity(what: str, content: bytes) -> dict[str, Any]:
    """Return what a manifest says of one of its version's files."""
    _, prefix = _FILES[what]
    return {f"{prefix}sha256": hashlib.sha256(content).hexdigest(), f"{prefix}size_bytes": len(content)}


@dataclass(frozen=True)
class Registry:
    """The versions in one folder, and the keys that sign and verify them."""

    root: Path
    keys: Keys

    @classmethod
    def from_environment(cls) -> Registry:
        """Return the registry that the environment names; by default, the checkout's.

        `MODELS_DIR`, `MODEL_SIGNING_KEY_FILE`, and `MODEL_PUBLIC_KEYS_FILE`, which is `model_signing.pub` next to
        `model_signing.key` unless it is set.
        """
        private = Path(os.environ.get("MODEL_SIGNING_KEY_FILE") or PROJECT / ".local" / "model_signing.key")
        public = Path(os.environ.get("MODEL_PUBLIC_KEYS_FILE") or private.with_suffix(".pub"))
        return cls(Path(os.environ.get("MODELS_DIR") or PROJECT / "models"), Keys(private, public))

    def init(self) -> list[str]:
        """Make the keys unless they are there, and sign anew what a release before Ed25519 has signed.

        Returns
        -------
        list of str
            What is wrong with each version that the keys do not verify, if any of that was done.
        """
        if old := old_keys(self.keys):
            with self._write_lock():
                sign_anew(self.root, self.keys, old, self.versions())
        if not (self.keys.create() or old):
            return []
        problems = []
        for version in self.versions():
            try:
                self.manifest(version)
            except RegistryError as error:
                problems.append(str(error))
        return problems

    def versions(self) -> list[str]:
        """Return the versions, newest first. A link to a folder is none. RegistryError if the folder cannot be read."""
        return sorted((entry.name for entry in self._named_as_versions() if not entry.is_symlink()), reverse=True)

    def _named_as_versions(self) -> list[os.DirEntry[str]]:
        """Return the folders that are named like a version, and the links."""
        try:
            entries = [entry for entry in os.scandir(self.root) if is_version(entry.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryError(f"{self.root} cannot be read: {reason(error)}") from error
        return [entry for entry in entries if entry.is_symlink() or entry.is_dir(follow_symlinks=False)]

    def current(self) -> str:
        """Return the serving version, or raise as `pointer` does."""
        return self.pointer()[0].current

    def pointer(self, seen: Pointer | None = None) -> tuple[Pointer, str | None]:
        """Return the pointer to the serving version, and what is wrong with the file `current` if that is not it.

        Parameters
        ----------
        seen : Pointer, optional
            The last one that the caller has seen. Without it, an older one only shows by what the folder holds, which
            whoever put it back may have put back as well.

        Raises
        ------
        NoModelError
            Before the first publish, or the first activation.
        BeingPublishedError
            During the first publish.
        RegistryError
            If it is missing later on, names no version, is not signed, or is older than another one.
        """
        with suppress(FileNotFoundError):
            return read_pointer(self.root, self.keys, seen)
        signed = list(self.signed())
        if served := next((m["version"] for m in signed if m.get("activate", True)), None):
            if is_locked(lock_of(self.root)):
                raise BeingPublishedError(f"version {served} is being published: ask again")
            raise RegistryError(f"{self.root / CURRENT} is missing, although {served} was published to serve. {WAY_IN}")
        trigger = f"trigger the DAG {NAME}"
        if signed:
            activate = f"`python -m penguins.registry activate {signed[0]['version']}`"
            raise NoModelError(f"no version in {self.root} serves yet: run {activate}, or {trigger}")
        raise NoModelError(f"there is no model in {self.root} yet: {trigger}")

    def signed(self) -> Iterator[dict[str, Any]]:
        """Yield the manifests that the keys verify, newest first."""
        for version in self.versions():
            with suppress(RegistryError):
                yield self.manifest(version)

    def manifest(self, version: str) -> dict[str, Any]:
        """Return a version's manifest, or raise RegistryError if it is missing or none of the keys has signed it."""
        content = self._read(version, "manifest.json", _MAX_MANIFEST_BYTES)
        if not self.keys.verify(content, self._read(version, "manifest.sig", _MAX_SIGNATURE_BYTES)):
            raise RegistryError(
                f"version {version}: its signature does not match the public keys in {self.keys.public}. It was "
                "changed after publishing, or signed with another key. Train again, or activate a version that "
                "`verify` finds good."
            )
        try:
            manifest = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RegistryError(f"version {version}: its manifest.json cannot be read: {reason(error)}") from error
        if (named := manifest.get("version")) != version:
            raise RegistryError(f"version {version}: its manifest is that of {named}")
        return manifest

    def read(self, version: str) -> tuple[dict[str, Any], bytes]:
        """Return the manifest and the pickle's bytes, both verified, or raise RegistryError."""
        manifest = self.manifest(version)
        return manifest, self._verified(manifest, "pickle")

    def report(self, version: str) -> bytes:
        """Return a version's report as it was published, or raise RegistryError."""
        return self._verified(self._published(version), "report")

    def predictions(self, version: str) -> bytes:
        """Return the predictions that a version keeps for the next gate, or raise RegistryError."""
        return self._verified(self._published(version), "predictions")

    def _published(self, version: str) -> dict[str, Any]:
        if checked(version) not in self.versions():
            raise RegistryError(f"there is no version {version}.")
        return self.manifest(version)

    def _verified(self, manifest: Mapping[str, Any], what: str) -> bytes:
        """Return one of a version's files, checked against the checksum in its verified manifest."""
        version, (name, prefix) = manifest["version"], _FILES[what]
        if f"{prefix}sha256" not in manifest:
            raise RegistryError(
                f"version {version} has no {what}: older versions were published without. Trigger the DAG "
                f"{NAME}: every new version has its own."
            )
        content = self._read(version, name, manifest.get(f"{prefix}size_bytes", _MAX_UNSIZED_BYTES))
        if (sha256 := hashlib.sha256(content).hexdigest()) != (expected := manifest[f"{prefix}sha256"]):
            raise RegistryError(
                f"version {version}: the sha256 of its {what} is {sha256}, but the manifest says {expected}. "
                "It was changed after publishing. Train again, or activate a version that `verify` finds good."
            )
        return content

    def _read(self, version: str, name: str, limit: int) -> bytes:
        folder = self.root / checked(version)
        try:
            if folder.is_symlink():
                raise RefusedError(f"{folder} is a symbolic link, which is no version")
            return read_file(folder / name, limit=limit)
        except OSError as error:
            raise RegistryError(
                f"version {version}: its {name} cannot be read: {reason(error)}. "
                "Train again, or activate a version that `verify` finds good."
            ) from error

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
            Returns the version's report.html, given its manifest, which then holds its checksum and size as well.
        predictions : bytes, optional
            For the next gate, from `Predictions.to_bytes`; the manifest then holds their checksum and size.
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
        with self._write_lock():
            identity = _identity("pickle", pickled)
            created_at = self._next_second(identity["sha256"])
            version = name_of(created_at, identity["sha256"])
            manifest = {
                **facts,
                "version": version,
                "created_at": created_at.isoformat().replace("+00:00", "Z"),
                **identity,
                **({} if activate else {"activate": False}),
            }
            staging = staging_path(self.root)
            staging.mkdir()
            write_file(staging / "model.pkl", pickled)
            if predictions is not None:
                manifest |= _identity("predictions", predictions)
                write_file(staging / "predictions.parquet", predictions)
            if make_report:
                report = make_report(manifest)
                manifest |= _identity("report", report)
                write_file(staging / "report.html", report)
            content = json.dumps(manifest, indent=2, allow_nan=False).encode()
            write_file(staging / "manifest.json", content)
            write_file(staging / "manifest.sig", self.keys.sign(content))
            flush_folder(staging)
            staging.rename(self.root / version)
            flush_folder(self.root)
            if activate:
                move_pointer(self.root, self.keys, version)
            self._remove_old_versions()
        return manifest

    def activate(self, version: str) -> None:
        """Verify a version and make it the serving one. This is the rollback, and a release's second step."""
        with self._write_lock():
            move_pointer(self.root, self.keys, version, release="activate" in self.read(version)[0])

    def rotate_key(self) -> None:
        """Make a new key: it signs from now on, and what the others signed stays valid."""
        with self._write_lock():
            self.keys.renew()

    def _next_second(self, sha256: str) -> datetime:
        """Return now, or one second after the newest version, so that names sort by age and are unique.

        Only signed versions count, and none from the future.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        for manifest in self.signed():
            if now <= (taken := time_of(manifest["version"])) <= now + FUTURE:
                now = taken + timedelta(seconds=1)
                break
        while os.path.lexists(self.root / name_of(now, sha256)):  # what is not signed may have the name
            now += timedelta(seconds=1)
        return now

    def _remove_old_versions(self) -> None:
        """Remove all but the newest of each kind and the one that serves. The caller holds the lock."""
        for entry in self._named_as_versions():
            if entry.is_symlink():
                Path(entry).unlink()
        try:
            serving = self.current()
        except NoModelError:
            serving = ""
        except RegistryError:  # nothing is removed while nobody knows what serves
            return
        signed = [manifest["version"] for manifest in self.signed()]
        others = [version for version in self.versions() if version not in signed]
        # Each kind for itself: nobody can push signed versions out with folders that are only named so.
        for version in (*signed[VERSIONS_KEPT:], *others[VERSIONS_KEPT:]):
            if version != serving:
                # Renamed in one step, then removed as a leftover: a version is complete or does not exist.
                (self.root / version).rename(staging_path(self.root))

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Hold the lock of whoever writes. RegistryError if somebody else does, or if there is no key to sign with."""
        self.keys.private_key()
        with write_lock(self.root):
            yield
