"""Loads a version: its pickle is opened, compiled and proven in a separate process, which runs `compiler.py`.

So the service itself keeps neither scikit-learn nor pandas in memory, and a swap does not hold up requests.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from app import SHARED_FOLDER
from app.fast.graph import Compiled, CompileError, compiled_model
from penguins.compatibility import ModelError, check_columns, check_libraries
from penguins.inference import Predictor, load_model, prove

SECONDS_TO_COMPILE = 120
SECONDS_TO_ANSWER = 30  # of a compiler that waits; on a busy machine, its imports may have taken up to 20

Answer = Compiled | CompileError | ModelError

_waiting: list[subprocess.Popen[bytes]] = []  # one at most; a list, because only one thread can pop it


class CompilerLostError(CompileError):
    """The compiler ended without an answer, or timed out."""


def load(pickled: bytes, manifest: Mapping[str, Any]) -> tuple[Predictor, str | None]:
    """Open, compile and prove a pickle whose signature was verified.

    Returns
    -------
    model : Predictor
        The compiled pipeline, or the pipeline itself as a fallback.
    fallback : str or None
        Why the pipeline itself has to serve; None if it does not.

    Raises
    ------
    ModelError
        If the model cannot be trusted: see `penguins.inference.load_model`.
    """
    # `load_model` checks both as well, but a version that is refused is tried again every ten seconds, which must not
    # start a process each time; and that process may find another schema.py than this one did.
    check_libraries(manifest)
    check_columns(manifest)
    answer = _compile_once(pickled, manifest)
    if isinstance(answer, ModelError):
        raise answer
    if isinstance(answer, CompileError):
        return load_model(pickled, manifest), str(answer)
    model = compiled_model(answer, manifest["classes"])
    prove(model, manifest["golden"])
    return model, None


def _compile_once(pickled: bytes, manifest: Mapping[str, Any]) -> Answer:
    """Run the compiler, or reuse the answer that it gave another worker."""
    if SHARED_FOLDER not in os.environ:
        return _compile_apart(pickled, manifest)
    folder = Path(os.environ[SHARED_FOLDER])
    name = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    found = folder / f"{name}.compiled"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found.exists():
            return pickle.loads(found.read_bytes())  # noqa: S301 - from our own process, in a folder of our own
        answer = _compile_apart(pickled, manifest)
        if isinstance(answer, ModelError | CompilerLostError):  # may be temporary, so not shared
            return answer
        for older in folder.glob("*.compiled"):
            older.unlink()
        written = folder / "being-written"
        written.write_bytes(pickle.dumps(answer))
        written.replace(found)
    return answer


def _compile_apart(pickled: bytes, manifest: Mapping[str, Any]) -> Answer:
    """Run the compiler in a separate process: the one that waits, or a new one."""
    with _answering() or _start() as compiler:
        try:
            answer, errors = compiler.communicate(pickle.dumps((pickled, manifest)), timeout=SECONDS_TO_COMPILE)
        except subprocess.TimeoutExpired:
            return CompilerLostError(f"compiling takes more than {SECONDS_TO_COMPILE} s")
        finally:
            compiler.kill()
    if compiler.returncode:
        last = errors.decode(errors="replace").strip().splitlines()[-1:]
        return CompilerLostError(f"the compiler ended with exit code {compiler.returncode} {' '.join(last)}".strip())
    return pickle.loads(answer)  # noqa: S301 - from our own process


def warm_up() -> None:
    """Start a compiler ahead of the first version: most of its time goes into imports, and nobody waits for them yet.

    Not for several workers, as each would hold the memory for it, some 130 MB.
    """
    if SHARED_FOLDER not in os.environ:
        with suppress(OSError):  # such as too little memory: then the first version tries it again
            _waiting.append(_start())


def cool_down() -> None:
    """End the compiler that waits, if no version has used it."""
    with suppress(IndexError), _waiting.pop() as compiler:
        compiler.kill()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "app.fast.compiler", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # what a process that died did not take must not be left to be written at its end
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _answering() -> subprocess.Popen[bytes] | None:
    """Return the compiler that waits, if there is one and it answers. One that died or hangs is ended."""
    try:
        compiler = _waiting.pop()
    except IndexError:
        return None
    assert compiler.stdin
    assert compiler.stdout
    with suppress(BrokenPipeError):
        compiler.stdin.write(pickle.dumps(None))
        answered, _, _ = select.select([compiler.stdout], [], [], SECONDS_TO_ANSWER)
        if answered and compiler.stdout.read(1):
            return compiler
    with compiler:
        compiler.kill()
    return None
