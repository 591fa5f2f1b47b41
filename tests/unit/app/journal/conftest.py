from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from penguins.journal.tables import SEQ, engine_of, feedback, predictions

ReadRows = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a journal."""
    return f"sqlite:///{tmp_path}/journal/journal.db"


@pytest.fixture
def rows(url: str) -> ReadRows:
    """Read a table's rows, in their order."""

    def rows(name: str) -> list[dict[str, Any]]:
        table = {"predictions": predictions, "feedback": feedback}[name]
        with engine_of(url).connect() as connection:
            return [dict(row) for row in connection.execute(select(table).order_by(table.c[SEQ])).mappings()]

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
