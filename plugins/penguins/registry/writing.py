"""Writing on the shared volume: one at a time, and nothing half written is left behind."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from penguins.files import RefusedError, locked
from penguins.registry.errors import RegistryError, reason

LOCK_SECONDS = 60
_STAGING = ".staging-"

log = logging.getLogger(__name__)


def staging_path(root: Path) -> Path:
    """Return a path for what is being written. Only the holder of the lock may write there."""
    return root / f"{_STAGING}{uuid.uuid4().hex}"


def lock_of(root: Path) -> Path:
    return root / ".lock"


@contextmanager
def write_lock(root: Path) -> Iterator[None]:
    """Hold the registry's lock. RegistryError if somebody else does, or if the folder cannot be written."""
    with ExitStack() as held:
        try:
            root.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(lock_of(root), LOCK_SECONDS))
        except TimeoutError:
            raise RegistryError(
                f"{lock_of(root)} has been locked by another process for {LOCK_SECONDS} s, and a publish takes a "
                "second or two. `lslocks` names who holds it; end that, then try again."
            ) from None
        except RefusedError as error:
            raise RegistryError(f"{lock_of(root)} cannot be locked: {error}. Remove it.") from error
        except OSError as error:
            raise _unwritable(root, error) from error
        try:
            _remove_leftovers(root)
            yield
        except OSError as error:
            raise _unwritable(root, error) from error
        finally:
            _remove_leftovers(root)


def _remove_leftovers(root: Path) -> None:
    # Any that exist were left by a crashed publisher, or by this one.
    for path in root.glob(f"{_STAGING}*"):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:  # it is in nobody's way
            log.warning("%s cannot be removed: %s", path, error.strerror)


def _unwritable(root: Path, error: OSError) -> RegistryError:
    return RegistryError(
        f"{root} cannot be written: {reason(error)}. The serving version is complete and stays in use; free some space "
        "or repair the volume, then run the DAG again."
    )
