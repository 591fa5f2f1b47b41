"""What the tests of the stack share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack as one command brings it up, from no volumes. test_stack_faults.py goes on where test_stack.py ends."""
    stack = Stack("penguin-e2e", tutorial_ports=True)
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()
