"""Files: read only if they are what they should be, and written so that a crash leaves the old one or the new one.

Whoever may write to the models volume can put anything there: a FIFO that keeps a reader waiting for good, a link to a
file that only the reader may see, or one that fills its memory. Such a thing is refused unread, and no error says what
a file holds.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

KIBIBYTE, MEBIBYTE = 2**10, 2**20
KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class RefusedError(OSError):
    """The file is no regular file, a symbolic link, or longer than it may be."""


def read_file(path: Path, *, limit: int, follow_links: bool = False) -> bytes:
    """Return a regular file's content of at most `limit` bytes, or raise OSError."""
    with opened(path, os.O_RDONLY, follow_links=follow_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise RefusedError(f"it has {size:,} bytes; it may have {limit:,} at most")
        content = file.read(size + 1)
    if len(content) > size:
        raise RefusedError("it grew while it was read")
    return content


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is created if necessary, or raise TimeoutError."""
    until = time.monotonic() + seconds
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        # In the stack it is root that rotates the key, and whoever owns the folder must be able to open this as well.
        with suppress(PermissionError):
            owner = path.parent.stat()
            if os.fstat(file.fileno()).st_uid != owner.st_uid:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"{path} is locked by another process") from None
            time.sleep(0.05)
        yield


def is_locked(path: Path) -> bool:
    """Whether another holds the lock of a file. Of a file that cannot be opened, nobody does."""
    with suppress(OSError), opened(path, os.O_RDONLY) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def opened(path: Path, flags: int, *, follow_links: bool = False) -> Iterator[IO[bytes]]:
    """Open a regular file, and wait for nothing. RefusedError if it is none, OSError if it cannot be opened."""
    # Without O_NONBLOCK, opening a FIFO waits for its other end.
    flags |= os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, 0o640)
    except IsADirectoryError as error:  # opened to be written to
        raise RefusedError("it is a folder, not a file") from error
    except OSError as error:
        if not follow_links and path.is_symlink():
            raise RefusedError("it is a symbolic link, which is not followed") from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise RefusedError("it is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise RefusedError(f"it is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a new file to disk. Where there is a file already, or a link, FileExistsError is raised."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, *, mode: int, like: os.stat_result | None = None) -> None:
    """Write a file to disk in the place of another, in one step. The caller holds a lock.

    Parameters
    ----------
    path : Path
    content : bytes
    mode : int
        The permissions, whatever the umask.
    like : os.stat_result, optional
        Of what has the owner and the group that it gets if root writes it.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)  # of a change that was killed
    try:
        write_file(beside, content, mode=0o600)
        if like and os.geteuid() == 0:
            os.chown(beside, like.st_uid, like.st_gid)
        beside.chmod(mode)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Write a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
