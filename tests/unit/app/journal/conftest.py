from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import app.journal.writer
from penguins.journal.files import files, pieces, rows_of

ReadRows = Callable[[str], list[list[str]]]


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets midnight, when files change."""
    day = 86_400 * 10**9
    today_at_noon = time.time_ns() // day * day + day // 2
    monkeypatch.setattr(app.journal.writer, "time_ns", lambda: today_at_noon)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a journal."""
    path = tmp_path / "journal"
    path.mkdir()
    return path


@pytest.fixture
def rows(folder: Path) -> ReadRows:
    """Read the rows of a kind from all files."""

    def rows(kind: str) -> list[list[str]]:
        return [row for path in files(folder, kind) for _, lines in pieces(path, kind) for row in rows_of(lines, kind)]

    return rows


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """No file can grow beyond so many bytes: the kernel writes what fits, and refuses the rest."""

    @contextmanager
    def full(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full
