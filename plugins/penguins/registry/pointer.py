"""The pointer `current`: the version that serves on its first line, so that `head -1` shows it, then what signs it.

The signature says that `publish` or `activate` wrote it. The counter says in which order: an older pointer that is put
back has a valid signature, but a lower counter. `.last-pointer` is a copy, written after it, to compare it with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from penguins.files import KIBIBYTE, flush_folder, read_file, write_file
from penguins.registry.errors import NoModelError, RegistryError, reason
from penguins.registry.keys import is_signed, read_keys, signature
from penguins.registry.names import NO_VERSION, is_version

CURRENT, LAST = "current", ".last-pointer"
LONGEST = 4 * KIBIBYTE
WAY_IN = (
    "Run `python -m penguins.registry activate VERSION` with the version that shall serve, or trigger the DAG "
    "modelo_penguin: both sign the pointer."
)


@dataclass(frozen=True)
class Pointer:
    """Which version serves.

    Parameters
    ----------
    current : str
        The version. No manifest has a fact of this name, so the signature of one is never that of the other.
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


def read_pointer(root: Path, key_file: Path, seen: Pointer | None = None) -> Pointer:
    """Return the pointer to the serving version; `Registry.pointer` says what is raised."""
    last = _pointer_or_none(root / LAST, key_file)  # first, because it is written last: it is never newer
    try:
        pointer = _pointer(root / CURRENT, key_file)
    except FileNotFoundError:
        raise NoModelError(_nothing_serves(root)) from None
    for later in (seen, last):
        if later and pointer.counter < later.counter:
            raise RegistryError(
                f"{root / CURRENT} names version {pointer.current}, activated at {pointer.activated_at}, but "
                f"{later.current} was activated later, at {later.activated_at}: an older pointer was put back. {WAY_IN}"
            )
    return pointer


def released_versions(root: Path, key_file: Path) -> set[str]:
    """Return the versions that were published without being activated, and have been since."""
    return {version for pointer in _trusted_pointers(root, key_file) for version in pointer.released}


def move_pointer(
    root: Path, key_file: Path, version: str, staging_path: Callable[[], Path], *, release: bool = False
) -> None:
    """Point to a version, in one step, and with `release` remember that it was activated. The caller holds the lock."""
    earlier = _trusted_pointers(root, key_file)
    # The time in milliseconds, or one more than the highest counter: it rises even where the earlier pointers were
    # removed, and where the clock went back.
    counter = max([time.time_ns() // 1_000_000, *(pointer.counter + 1 for pointer in earlier)])
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    released = {v for pointer in earlier for v in pointer.released if (root / v).is_dir()}
    if release:
        released.add(version)
    facts = asdict(Pointer(version, counter, now, sorted(released)))
    if not released:
        del facts["released"]  # as in all pointers from before versions could wait
    proof = {**facts, "signature": signature(read_keys(key_file)[0], facts)}
    del proof["current"]
    for name in (CURRENT, LAST):
        written = staging_path()
        write_file(written, f"{version}\n{json.dumps(proof)}\n".encode())
        written.replace(root / name)
        flush_folder(root)


def _nothing_serves(root: Path) -> str:
    trigger = "trigger the DAG modelo_penguin"
    if newest := max((path.name for path in root.glob("*") if is_version(path.name)), default=None):
        return f"no version in {root} serves yet: run `python -m penguins.registry activate {newest}`, or {trigger}"
    return f"there is no model in {root} yet: {trigger}"


def _pointer(path: Path, key_file: Path) -> Pointer:
    try:
        version, _, proof = read_file(path, limit=LONGEST).decode().partition("\n")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} cannot be read: {reason(error)}. {WAY_IN}") from error
    if not is_version(version):
        raise RegistryError(f"the first line of {path} {NO_VERSION}. {WAY_IN}")
    try:
        facts = json.loads(proof)
        claimed = facts.pop("signature")
        pointer = Pointer(version, **facts)
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):  # from before pointers were signed
        raise RegistryError(f"{path} names version {version}, but is not signed. {WAY_IN}") from None
    if not is_signed({**facts, "current": version}, claimed, read_keys(key_file)):
        raise RegistryError(
            f"{path} names version {version}, but its signature does not match the key in {key_file}. {WAY_IN}"
        )
    return pointer


def _trusted_pointers(root: Path, key_file: Path) -> list[Pointer]:
    return [pointer for name in (CURRENT, LAST) if (pointer := _pointer_or_none(root / name, key_file))]


def _pointer_or_none(path: Path, key_file: Path) -> Pointer | None:
    """Return the pointer, or None if it cannot be trusted and so says nothing."""
    try:
        return _pointer(path, key_file)
    except (FileNotFoundError, RegistryError):
        return None
