"""The keys' file, and its command line."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penguins.api_keys import MAX_FILE_BYTES, KeysError, add_key, read_keys
from support import ROOT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "api_keys"


def test_the_command_line_needs_the_standard_library_alone_and_shows_a_key_once(file: Path) -> None:
    def keys(*arguments: str) -> tuple[int, str, str]:
        env = {"PYTHONPATH": str(ROOT / "plugins"), "API_KEYS_FILE": str(file)}
        command = [sys.executable, "-S", "-m", "penguins.api_keys", *arguments]  # -S: without installed packages
        done = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, printed, said = keys("add", "lab")
    key = printed.strip()
    assert (code, len(key)) == (0, 43)
    assert "only time" in said
    assert f"started with API_KEYS_FILE={file}" in said
    assert file.read_text().splitlines()[1:] == [f"lab:{hashlib.sha256(key.encode()).hexdigest()}"]
    assert file.stat().st_mode & 0o777 == 0o640

    with file.open("a") as written:
        written.write("# those of the ship\n")
    file.chmod(0o600)
    assert keys("add", "ship")[0] == 0
    assert keys("list") == (0, "lab\nship\n", "")
    assert file.stat().st_mode & 0o777 == 0o600  # as somebody set it
    before = file.read_text()
    for arguments, reason in {
        ("add", "lab"): "has a key lab already",
        ("add", "a b"): "cannot name a key",
        ("add", "#"): "cannot name a key",
        ("remove", "la"): "Its keys: lab, ship",
    }.items():
        code, printed, said = keys(*arguments)
        assert (code, printed) == (1, "")
        assert reason in said
        assert "Traceback" not in said
    assert file.read_text() == before
    assert keys("remove", "lab")[0] == 0
    head, _, *others = before.splitlines()
    assert file.read_text().splitlines() == [head, *others]
    assert keys("remove", "ship")[0] == 0
    assert keys("list") == (0, "", "")
    assert {p.name for p in file.parent.iterdir()} == {file.name, f".{file.name}.lock"}


def test_root_makes_the_file_for_whoever_the_folder_is_for(file: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    file.parent.mkdir()
    os.chown(file.parent, 1234, 5678)
    for name in ("lab", "ship"):
        add_key(file, name)
        assert (file.stat().st_uid, file.stat().st_gid) == (1234, 5678)


def test_of_several_that_add_at_once_none_is_lost(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda number: add_key(file, f"k{number}"), range(24)))
    assert read_keys(file) == {f"k{n}": hashlib.sha256(key.encode()).digest() for n, key in enumerate(added)}


SECRET = "c2VjcmV0IGtleSBvZiBzb21ldGhpbmcgZWxzZQ"
HASH = "ab" * 32
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda file: None, "cannot be read: No such file"),
    "empty": (lambda file: file.touch(), "are empty"),
    "a folder": (lambda file: file.mkdir(), "not a regular file"),
    "a FIFO": (os.mkfifo, "not a regular file"),
    "a device without end": (lambda file: file.symlink_to("/dev/zero"), "not a regular file"),
    "another file": (lambda file: file.write_text(f"{SECRET}\n"), "line 1 is not name:sha256"),
    "a key instead of its hash": (lambda file: file.write_text(f"# mine\nlab:{SECRET}\n"), "line 2 is not"),
    "bytes": (lambda file: file.write_bytes(b"\xff\x00" * 9), "line 1 is not"),
    "a name twice": (lambda file: file.write_text(f"a:{HASH}\na:{'cd' * 32}\n"), "line 2 is there twice"),
    "a hash twice": (lambda file: file.write_text(f"a:{HASH}\nb:{HASH}\n"), "line 2 is there twice"),
    "too long": (lambda file: file.write_text("#" * (MAX_FILE_BYTES + 1)), "more than 1048576 bytes"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_named_unread_or_unquoted_and_left_alone(file: Path, broken: str) -> None:
    make, reason = BROKEN[broken]
    file.parent.mkdir()
    make(file)
    with pytest.raises(KeysError, match=re.escape(reason)) as raised:
        read_keys(file)
    assert str(file) in str(raised.value)
    for part in (SECRET, HASH):
        assert part not in str(raised.value)
    if broken not in ("absent", "empty"):
        inode = file.lstat().st_ino
        with pytest.raises(KeysError, match=re.escape(reason)):
            add_key(file, "new")
        assert file.lstat().st_ino == inode


def test_comments_and_blank_lines_are_no_keys(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(f"# ours\n\n  lab:{HASH}  # of the lab\n")
    assert read_keys(file) == {"lab": bytes.fromhex(HASH)}
