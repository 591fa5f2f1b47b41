"""The files that this process writes, and the bounds on all that are in the folder."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from time import monotonic, time_ns

from penguins.journal.files import DIRECTORY, FEEDBACK, KINDS, files, header

DAY = 86_400
SHARES = 16  # files of this part of all that is allowed, so that as much is kept free, and no more is deleted at once
LARGEST_FILE = 2**30  # offsets in it fit into 32 bits


@dataclass(frozen=True)
class Bounds:
    """How long files are kept, in days after their last line, and how many bytes all have together."""

    days: int
    max_bytes: int

    @property
    def file_bytes(self) -> int:
        return min(self.max_bytes // SHARES, LARGEST_FILE)


class FolderError(Exception):
    """The folder cannot be used."""


def prepare(folder: Path) -> None:
    """Make the folder, if it is not there, or raise FolderError."""
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        reason = None if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "this user may not write there"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise FolderError(
            f"{DIRECTORY} is {str(folder)!r}, which cannot be used: {reason}. It must be a folder that user "
            f"{os.getuid()} may write to, or not be set at all"
        )


class Folder:
    """The folder, in which other processes write as well. Its oldest files go when there are too many bytes."""

    def __init__(self, path: Path, bounds: Bounds) -> None:
        self.path, self.bounds = path, bounds
        self.in_use: set[Path] = set()  # by this process
        self._written = 0
        self._tidied = 0.0

    def make_room(self, size: int) -> None:
        """Tidy up once a second while there is something to write, and sooner if it is much."""
        self._written += size
        if self._written > self.bounds.file_bytes // 8:
            self.tidy()
        else:
            self.tidy_after(1)

    def tidy_after(self, seconds: float) -> None:
        if monotonic() - self._tidied >= seconds:
            self.tidy()

    def tidy(self) -> None:
        """Delete what is too old, then what is too much: first predictions, because feedback has their records too."""
        self._tidied, self._written = monotonic(), 0
        now, kept = time_ns() / 1e9, []
        for kind in KINDS:
            for path in files(self.path, kind):
                with suppress(FileNotFoundError):  # another process tidies up as well
                    found = path.stat()
                    if found.st_mtime > now + DAY:  # of a clock that was wrong: it would stay until then
                        os.utime(path, (now, now))
                    kept.append((kind == FEEDBACK, min(found.st_mtime, now), found.st_size, path))
        total = sum(size for _, _, size, _ in kept)
        for _, written, size, path in sorted(kept):
            is_old = written < now - self.bounds.days * DAY
            is_too_much = total > self.bounds.max_bytes - self.bounds.file_bytes
            if (is_old or is_too_much) and path not in self.in_use:
                path.unlink(missing_ok=True)
                total -= size


class Appender:
    """Appends lines to a file of this process alone, and starts another when it is large or the day is over."""

    def __init__(self, folder: Folder, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._lock = threading.Lock()
        self._file: int | None = None
        self._path = Path()
        self._day = ""
        self._size = 0

    def append(self, lines: bytes, *, flush: bool = False) -> None:
        """Write all of these lines, or none and raise OSError. With `flush`, they are on the disk then."""
        with self._lock:
            self._folder.make_room(len(lines))
            self._close_if_over(len(lines))
            file = self._open() if self._file is None else self._file
            content = lines if self._size else header(self._kind) + lines
            try:
                written = 0
                while written < len(content):
                    written += os.write(file, content[written:])
                if flush:
                    os.fsync(file)
            except OSError:
                self._take_back(file)
                raise
            self._size += len(content)

    def close_if_over(self) -> None:
        """Close a file of yesterday, or one that was deleted or replaced."""
        with self._lock:
            self._close_if_over(0)

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> int:
        now = datetime.fromtimestamp(time_ns() / 1e9, UTC)
        path = self._folder.path / f"{self._kind}-{now:%Y%m%dT%H%M%SZ}-{token_hex(4)}.csv"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._path, self._day, self._size = path, f"{now:%Y%m%d}", 0
        self._folder.in_use.add(path)
        return self._file

    def _close_if_over(self, size: int) -> None:
        if self._file is None:
            return
        today = f"{datetime.fromtimestamp(time_ns() / 1e9, UTC):%Y%m%d}"
        is_full = self._size > 0 and self._size + size > self._folder.bounds.file_bytes
        if is_full or today != self._day or self._is_gone(self._file):
            self._close()

    def _is_gone(self, file: int) -> bool:
        try:
            return os.fstat(file).st_ino != self._path.stat().st_ino
        except OSError:  # deleted, or on a network volume that was mounted again
            return True

    def _take_back(self, file: int) -> None:
        """Cut off what was written of lines that did not fit. Where that fails, the cut line stays the file's last."""
        try:
            os.ftruncate(file, self._size)
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            self._folder.in_use.discard(self._path)
            with suppress(OSError):
                os.close(file)
