from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack as one command brings it up, from no volumes. One for all tests that need no other."""
    stack = Stack("penguin-e2e")
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()
