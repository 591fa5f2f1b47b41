"""Predictions by their id, in the files of all processes."""

from __future__ import annotations

import os
import re
import threading
import time
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from penguins.journal.files import PREDICTIONS, files, pieces, rows_of

# A line's time and id, neither of which has a comma or a quote.
_LINE = re.compile(rb"^[^,\n]*,([^,\n]+),", re.MULTILINE)
LONGEST_LINE = 2**16
Row = list[str]


class Lookup:
    """Finds rows. In memory are a hash and an offset of each, 12 bytes, from the first question on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._indices: dict[Path, _Index] = {}
        self._lock = threading.Lock()

    def find(self, ids: Iterable[str]) -> dict[str, Row]:
        """Return the rows of those ids that are there. Where an id was used twice, it is the later row."""
        wanted = {one.encode(): hash(one.encode()) for one in ids}
        found: dict[str, Row] = {}
        with self._lock:
            paths = files(self._folder, PREDICTIONS)
            for gone in self._indices.keys() - paths:
                del self._indices[gone]
            for path in paths:
                try:
                    rows = self._indices.setdefault(path, _Index(path)).find(wanted)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                for row in rows:
                    if (before := found.get(row[1])) is None or before[0] <= row[0]:
                        found[row[1]] = row
        return found


class _Index:
    """The rows of one file, by the hashes of their ids."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget(0)

    def _forget(self, inode: int) -> None:
        self._inode, self._end = inode, 0
        self._hashes: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._offsets: npt.NDArray[np.uint32] = np.empty(0, np.uint32)

    def find(self, wanted: dict[bytes, int]) -> list[Row]:
        self._extend()
        hashes = np.fromiter(wanted.values(), np.int64, len(wanted))
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        if not (hit := np.flatnonzero(first < last)).size:
            return []
        rows, ids = [], list(wanted)
        file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for place in hit.tolist():
                for offset in self._offsets[first[place] : last[place]].tolist():
                    head = os.pread(file, LONGEST_LINE, offset)
                    row = next(rows_of(head, PREDICTIONS), None)
                    if row and row[1].encode() == ids[place]:
                        rows.append(row)
        finally:
            os.close(file)
        return rows

    def _extend(self) -> None:
        """Read what was appended since the last time."""
        found = self._path.stat()
        if found.st_ino != self._inode or found.st_size < self._end:  # somebody edited it
            self._forget(found.st_ino)
        if found.st_size == self._end:
            return
        hashes, offsets = array("q"), array("I")
        for start, lines in pieces(self._path, PREDICTIONS, self._end):
            for line in _LINE.finditer(lines):
                hashes.append(hash(line[1]))
                offsets.append(start + line.start())
            self._end = start + len(lines)
            time.sleep(0)  # lets requests get in between
        # Stable, so that of equal hashes the later one comes last.
        all_hashes = np.concatenate([self._hashes, np.frombuffer(hashes, np.int64)])
        order = np.argsort(all_hashes, kind="stable")
        self._hashes = all_hashes[order]
        self._offsets = np.concatenate([self._offsets, np.frombuffer(offsets, np.uint32)])[order]
