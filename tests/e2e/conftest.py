"""Each stack is a group of tests, in the order of the files. The groups run beside each other: they wait much."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack as one command brings it up, from no volumes. One for all tests of the group "stack"."""
    stack = Stack("penguin-e2e", tutorial_ports=True)
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()
