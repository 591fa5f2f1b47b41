"""The pointer `current`: first the version that serves, so that `head -1` shows it, then facts, then what signs both.

The signature says that `publish` or `activate` wrote it. The counter says in which order: an older pointer that is put
back has a valid signature, but a lower counter. `.last-pointer` is a copy, written after it: the newer one of the two
counts, so that neither a damaged `current` nor an older one changes what serves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from penguins.files import KIBIBYTE, flush_folder, read_file, write_file
from penguins.registry.errors import RegistryError, reason
from penguins.registry.names import NO_VERSION, is_version
from penguins.registry.signing import Keys
from penguins.registry.writing import staging_path
from penguins.schema import NAME

CURRENT, LAST = "current", ".last-pointer"
MAX_BYTES = 4 * KIBIBYTE
WAY_IN = (
    f"Trigger the DAG {NAME}, or run `python -m penguins.registry activate VERSION` with a version that "
    "`verify` finds good: both sign the pointer."
)


@dataclass(frozen=True)
class Pointer:
    """Which version serves.

    Parameters
    ----------
    current : str
        The version. No manifest begins with one, so the signature of a manifest is never that of a pointer.
    counter : int
        Higher than that of every pointer before.
    activated_at : str
        When it was written, for people.
    released : collection of str
        The versions that were published without being activated, and have been since.
    """

    current: str
    counter: int
    activated_at: str
    released: Collection[str] = ()


def read_pointer(root: Path, keys: Keys, seen: Pointer | None = None) -> tuple[Pointer, str | None]:
    """Return the pointer that counts, and what is wrong with `current` if that is not it.

    Raises
    ------
    FileNotFoundError
        If there is none.
    RegistryError
        If none is signed, or all are older than the one that was `seen`.
    """
    last = _pointer_or_none(root / LAST, keys)  # first, because it is written last: it is never newer
    try:
        pointer = _pointer(root / CURRENT, keys)
        problem = None
    except (FileNotFoundError, RegistryError) as error:
        if last is None:
            raise
        pointer = last
        problem = str(error) if isinstance(error, RegistryError) else f"{root / CURRENT} is missing. {WAY_IN}"
    for later in (last, seen):
        if later and pointer.counter < later.counter:
            problem = problem or (
                f"{root / CURRENT} names version {pointer.current}, activated at {pointer.activated_at}, but "
                f"{later.current} was activated later, at {later.activated_at}: an older pointer was put back. {WAY_IN}"
            )
            if later is seen:
                raise RegistryError(problem)
            pointer = later
    return pointer, problem


def released_versions(root: Path, keys: Keys) -> set[str]:
    """Return the versions that were published without being activated, and have been since."""
    return {version for pointer in _trusted_pointers(root, keys) for version in pointer.released}


def move_pointer(root: Path, keys: Keys, version: str, *, release: bool = False) -> None:
    """Point to a version, in one step, and with `release` remember that it was activated. The caller holds the lock."""
    earlier = _trusted_pointers(root, keys)
    # The time in milliseconds, or one more than the highest counter: it rises even where the earlier pointers were
    # removed, and where the clock went back.
    counter = max([time.time_ns() // 1_000_000, *(pointer.counter + 1 for pointer in earlier)])
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    released = {v for pointer in earlier for v in pointer.released if (root / v).is_dir()}
    if release:
        released.add(version)
    pointer = Pointer(version, counter, now, sorted(released))
    for name in (CURRENT, LAST):
        write_pointer(root / name, keys, pointer)


def write_pointer(path: Path, keys: Keys, pointer: Pointer) -> None:
    """Sign a pointer and put it there in one step."""
    facts = asdict(pointer)
    content = f"{facts.pop('current')}\n{json.dumps(facts)}".encode()
    written = staging_path(path.parent)
    write_file(written, content + b"\n%s\n" % keys.sign(content).hex().encode())
    written.replace(path)
    flush_folder(path.parent)


def _pointer(path: Path, keys: Keys) -> Pointer:
    try:
        version, _, proof = read_file(path, limit=MAX_BYTES).decode().partition("\n")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} cannot be read: {reason(error)}. {WAY_IN}") from error
    if not is_version(version):
        raise RegistryError(f"the first line of {path} {NO_VERSION}. {WAY_IN}")
    facts, _, signature = proof.rstrip("\n").partition("\n")
    try:
        signed = keys.verify(f"{version}\n{facts}".encode(), bytes.fromhex(signature))
    except ValueError:
        signed = False
    if not signed:
        raise RegistryError(
            f"{path} names version {version}, but its signature does not match the public keys in {keys.public}. "
            f"{WAY_IN}"
        )
    return Pointer(version, **json.loads(facts))


def _trusted_pointers(root: Path, keys: Keys) -> list[Pointer]:
    return [pointer for name in (CURRENT, LAST) if (pointer := _pointer_or_none(root / name, keys))]


def _pointer_or_none(path: Path, keys: Keys) -> Pointer | None:
    """Return the pointer, or None if it cannot be trusted and so says nothing."""
    try:
        return _pointer(path, keys)
    except (FileNotFoundError, RegistryError):
        return None
