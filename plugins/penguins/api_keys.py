"""API keys: who may ask the service. `python -m penguins.api_keys add NAME` makes one.

The file that `API_KEYS_FILE` names has a line `name:sha256` for each key; what follows a # is a comment. The keys
themselves are kept nowhere.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penguins.files import RefusedError, locked, opened, replace_file

MAX_FILE_BYTES = 2**20  # some ten thousand keys
SECONDS_TO_LOCK = 10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it becomes a label of a metric
_LINE = re.compile(rf"({_NAME.pattern}):([0-9a-f]{{64}})")
_HEAD = "# name:sha256 of each API key, made by `python -m penguins.api_keys`"
_DEFAULT = Path(__file__).resolve().parents[2] / ".local" / "api_keys"


class KeysError(RuntimeError):
    """The keys cannot be read or changed; the message never quotes what a file holds."""


def digest(key: bytes) -> bytes:
    """Return what is kept of a key.

    A plain SHA-256, without salt or rounds: those are for passwords, which people choose. A key is 32 random bytes, so
    there is nothing to guess, and a service can check one in a microsecond.
    """
    return hashlib.sha256(key).digest()


def read_keys(path: Path) -> dict[str, bytes]:
    """Return each key's digest by its name, in the file's order. KeysError if it cannot be read, or a line is wrong."""
    if not (text := _text(path)):  # cut short by a full disk, or about to be written: not a wish to lock everybody out
        raise KeysError(f"the keys {path} are empty, without even a comment")
    return _parsed(text, path)


def add_key(path: Path, name: str) -> str:
    """Make a key, append its hash to the file, and return it: this is the only time that it is there to be seen.

    Raises
    ------
    KeysError
        If the name is taken or cannot be one, or the file cannot be read or written. The file then stays as it was.
    """
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name[:80]!r} cannot name a key: up to 64 letters, digits, dots, dashes and underscores can")
    key = secrets.token_urlsafe(32)
    with _for_change(path):
        text = _text(path) if path.exists() else ""
        if name in _parsed(text, path):
            raise KeysError(f"{path} has a key {name} already: choose another name, or remove that one first")
        lines = [*text.splitlines(), f"{name}:{digest(key.encode()).hex()}"]
        _replace(path, lines)
    return key


def remove_key(path: Path, name: str) -> None:
    """Remove the line of a key, and nothing else. KeysError if there is none of that name."""
    with _for_change(path):
        text = _text(path)
        keys = _parsed(text, path)
        if name not in keys:
            raise KeysError(f"{path} has no key {name[:80]!r}. Its keys: {', '.join(keys) or 'none'}")
        _replace(path, [line for line in text.splitlines() if line.partition(":")[0].strip() != name])


def _text(path: Path) -> str:
    """Return a regular file's text. Neither a FIFO nor a file without end is waited for."""
    try:
        with opened(path, os.O_RDONLY, follow_links=True) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except RefusedError as error:
        raise KeysError(f"the keys {path} are not a regular file") from error
    except OSError as error:
        raise KeysError(
            f"the keys {path} cannot be read: {error.strerror}. `python -m penguins.api_keys add NAME` makes a key, "
            "and the file if there is none; API_KEYS_FILE names it, and without that variable no key is asked for."
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise KeysError(f"the keys {path} have more than {MAX_FILE_BYTES} bytes")
    return content.decode(errors="replace")


def _parsed(text: str, path: Path) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    hashes: set[bytes] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not (entry := line.partition("#")[0].strip()):
            continue
        if not (found := _LINE.fullmatch(entry)):
            raise KeysError(
                f"the keys {path}: line {number} is not name:sha256, as `python -m penguins.api_keys` makes it"
            )
        name, hashed = found[1], bytes.fromhex(found[2])
        if name in keys or hashed in hashes:
            raise KeysError(f"the keys {path}: the name or the hash in line {number} is there twice")
        keys[name] = hashed
        hashes.add(hashed)
    return keys


@contextmanager
def _for_change(path: Path) -> Iterator[None]:
    """Hold the lock beside the file, so that nobody else's change is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(f".{path.name}.lock"), SECONDS_TO_LOCK):
            yield
    except TimeoutError:
        raise KeysError(f"somebody else has been changing the keys {path} for {SECONDS_TO_LOCK} s") from None
    except OSError as error:
        raise KeysError(f"the keys {path} cannot be written: {error.strerror or error}") from error


def _replace(path: Path, lines: list[str]) -> None:
    if not lines or not lines[0].startswith("#"):
        lines = [_HEAD, *lines]
    is_there = path.exists()
    replace_file(
        path,
        "".join(f"{line}\n" for line in lines).encode(),
        mode=stat.S_IMODE(path.stat().st_mode) if is_there else 0o640,
        # In the stack, root changes this file, and the folder says who reads it.
        like=(path if is_there else path.parent).stat(),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m penguins.api_keys", description="Manage the API keys in the file that API_KEYS_FILE names."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the names of the keys")
    commands.add_parser("add", help="make a key, and print it this once").add_argument("name")
    commands.add_parser("remove", help="remove a key: from the next second on, it is refused").add_argument("name")
    chosen = parser.parse_args(arguments)
    path = Path(os.environ.get("API_KEYS_FILE") or _DEFAULT)
    try:
        if chosen.command == "add":
            print(add_key(path, chosen.name))
            print(f"This is the only time it is shown; {path} keeps its hash.", file=sys.stderr)
            print(f"The service asks for keys once it is started with API_KEYS_FILE={path}", file=sys.stderr)
        elif chosen.command == "remove":
            remove_key(path, chosen.name)
            print(f"{chosen.name} is removed")
        else:
            print("".join(f"{name}\n" for name in read_keys(path)), end="")
    except KeysError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
