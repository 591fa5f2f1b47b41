"""Progress lines while a forest grows: scikit-learn has no callback for a tree, but prints a line for each."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from threading import Lock
from typing import TextIO

from sklearn.ensemble import RandomForestClassifier

from penguins.data.progress import Progress


class _TreeCounter(io.TextIOBase):
    """Turns the lines that scikit-learn and joblib print about trees into progress lines. Passes on all others."""

    def __init__(self, passed_on: TextIO, trees: int) -> None:
        self.passed_on, self.trees = passed_on, trees
        self.started = self.line_ends_to_drop = 0
        self.lock = Lock()  # each tree is announced by the thread that grows it

    def write(self, text: str) -> int:
        with self.lock:
            if text.startswith("building tree"):
                if not self.started:
                    self.progress = Progress("grown", self.trees, "trees")
                self.progress.at(self.started)
                self.started += 1
                self.line_ends_to_drop += not text.endswith("\n")
            elif text == "\n" and self.line_ends_to_drop:
                self.line_ends_to_drop -= 1
            elif not text.startswith("[Parallel("):
                self.passed_on.write(text)
        return len(text)


@contextmanager
def progress_of_trees(forest: RandomForestClassifier) -> Iterator[None]:
    """Write a progress line now and then while the forest is fitted within this context."""
    forest.verbose = 2  # prints a line for each tree
    try:
        with (
            redirect_stdout(_TreeCounter(sys.stdout, forest.n_estimators)),
            redirect_stderr(_TreeCounter(sys.stderr, forest.n_estimators)),
        ):
            yield
    finally:
        forest.verbose = 0
