"""From the release that signed with HMAC-SHA256: its models keep serving, and its keys verify nothing any more.

`before_ed25519/` is what that release wrote, with two keys: two versions that served, one that waited and serves since,
one that waits. Its own `Registry.publish`, `rotate_key` and `activate` made it, with pickles of a few bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penguins.registry import Keys, NoModelError, Registry, RegistryError, waiting_versions
from penguins.registry.__main__ import main
from penguins.registry.pointer import Pointer

MADE = Path(__file__).parent / "before_ed25519"
FIRST, SECOND, THIRD, FOURTH = sorted(path.name for path in MADE.glob("models/2*"))


def old_registry(folder: Path) -> Registry:
    shutil.copytree(MADE, folder)
    return Registry(folder / "models", Keys(folder / "key", folder / "key.pub"))


@pytest.fixture
def old(tmp_path: Path) -> Registry:
    return old_registry(tmp_path / "old")


def assert_upgraded(registry: Registry) -> None:
    """Whatever served and waited does so, and nothing has changed but signatures."""
    for version, number in {FIRST: b"first", SECOND: b"second", THIRD: b"third", FOURTH: b"fourth"}.items():
        assert registry.read(version)[1] == b"the %s pickle" % number
        if version in (FIRST, SECOND):
            assert registry.report(version) == b"<html><body>the %s report</body></html>" % number
            assert registry.predictions(version) == b"kept by the %s" % number
        inside = {path.name for path in (registry.root / version).iterdir()}
        assert inside - {path.name for path in (MADE / "models" / version).iterdir()} == {"manifest.sig"}
    for path in MADE.glob("models/2*/*"):
        assert (registry.root / path.relative_to(MADE / "models")).read_bytes() == path.read_bytes()
    facts = json.loads((MADE / "models" / "current").read_text().splitlines()[1])
    del facts["signature"]
    assert registry.pointer() == (Pointer(THIRD, **facts), None)
    assert (registry.root / ".last-pointer").read_bytes() == (registry.root / "current").read_bytes()
    assert waiting_versions(registry) == [FOURTH]
    assert not list(registry.root.glob(".staging-*"))
    key, *others = registry.keys.private.read_text().split("-----END PRIVATE KEY-----")
    assert key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert others == ["\n"]
    assert registry.keys.private.stat().st_mode & 0o777 == 0o600


def test_what_the_release_before_published_serves_on_and_is_signed_once(
    old: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RegistryError, match=r"`python -m penguins\.registry init`, `make run` and the stack's"):
        old.publish(b"new", {})
    monkeypatch.setenv("MODELS_DIR", str(old.root))
    monkeypatch.setenv("MODEL_SIGNING_KEY_FILE", str(old.keys.private))
    assert [main(["init"]), main(["verify"])] == [0, 0]
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        [FOURTH, "accuracy"],
        ["*", THIRD],
        [SECOND, "accuracy"],
        [FIRST, "accuracy"],
    ]
    assert_upgraded(old)
    signed = {path: path.stat().st_ino for path in old.root.rglob("*")}
    assert old.init() == []
    assert {path: path.stat().st_ino for path in old.root.rglob("*")} == signed
    old.activate(FIRST)
    old.activate(FOURTH)
    newest = old.publish(b"new", {})["version"]
    assert old.pointer()[0].released == [THIRD, FOURTH]
    old.read(newest)


def test_then_the_old_keys_verify_nothing_unless_they_are_put_back(old: Registry, tmp_path: Path) -> None:
    keys = old.keys.private.read_text()
    old.init()
    back = old_registry(tmp_path / "back")
    for name in ("current", ".last-pointer"):
        shutil.copy(back.root / name, old.root / name)
    (old.root / SECOND / "manifest.sig").unlink()
    assert old.init() == []
    with pytest.raises(RegistryError, match=f"{SECOND}: its manifest.sig cannot be read: .* Train again"):
        old.read(SECOND)
    with pytest.raises(RegistryError, match=f"names version {THIRD}, but its signature does not match"):
        old.current()
    with old.keys.private.open("a") as file:
        file.write(keys)
    public = old.keys.public.read_text()
    assert old.init() == []
    assert_upgraded(old)
    assert old.keys.public.read_text() == public


def nested(facts: dict[str, Any]) -> str:
    """Just so deep that it is read, and cannot be written again on Python 3.11."""
    return '{"signature": "", "a": ' + "[" * 990 + "]" * 990 + "}"


def forged(facts: dict[str, Any]) -> str:
    return json.dumps({**facts, "metrics": {"accuracy": 1.0}})


def unsigned(facts: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in facts.items() if name != "signature"})


def of_another(facts: dict[str, Any]) -> str:
    return (MADE / "models" / FIRST / "manifest.json").read_text()


def no_object(facts: dict[str, Any]) -> str:
    return json.dumps([facts])


@pytest.mark.parametrize("spoil", [nested, forged, unsigned, of_another, no_object])
def test_what_no_old_key_has_signed_is_not_signed_and_what_to_do_is_said(
    old: Registry, spoil: Callable[[dict[str, Any]], str]
) -> None:
    manifest, pointer = old.root / SECOND / "manifest.json", old.root / "current"
    manifest.write_text(spoil(json.loads(manifest.read_text())))
    version, facts = pointer.read_text().splitlines()
    pointer.write_text(f"{version}\n{spoil(json.loads(facts))}\n")
    (old.root / FOURTH / "manifest.sig").mkdir()
    problems = old.init()
    assert [problem.split(":")[0] for problem in problems] == [f"version {FOURTH}", f"version {SECOND}"]
    assert "manifest.sig cannot be read: it is a folder" in problems[0]
    assert "Train again, or activate a version that" in problems[1]
    assert not (old.root / SECOND / "manifest.sig").exists()
    now, problem = old.pointer()
    assert now.current == THIRD  # by `.last-pointer`
    assert "its signature does not match the public keys" in str(problem)
    assert old.read(old.current())[1] == b"the third pickle"
    assert b"PRIVATE" in old.keys.private.read_bytes()


def test_without_its_key_what_it_published_is_refused_with_what_to_do(old: Registry) -> None:
    old.keys.private.unlink()
    problems = old.init()
    assert [problem.split(":")[0] for problem in problems] == [f"version {v}" for v in (FOURTH, THIRD, SECOND, FIRST)]
    for problem in problems:
        assert "its manifest.sig cannot be read: No such file or directory. Train again" in problem
    with pytest.raises(RegistryError, match="does not match") as caught:
        old.current()
    assert not isinstance(caught.value, NoModelError)
    shutil.copy(MADE / "key", old.keys.private)  # it was somewhere else
    assert old.init() == []
    assert_upgraded(old)


def test_a_key_file_that_is_neither_is_refused_and_stays(old: Registry) -> None:
    for content in (b"k" * 31, b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n"):
        old.keys.private.write_bytes(content)
        with pytest.raises(RegistryError, match="neither an Ed25519 key in PEM nor one of an earlier release"):
            old.init()
        assert old.keys.private.read_bytes() == content


def init_and_die(registry: Registry, boundary: int) -> int:
    """Upgrade in a process of its own, which is killed at that call of the system. Return its exit code."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = boundary

    def step(event: str, *_: Any) -> None:
        nonlocal left
        if event.startswith(("open", "os.")):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(step)
        registry.init()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def test_a_kill_at_any_boundary_to_the_system_leaves_what_the_next_start_goes_on_with(tmp_path: Path) -> None:
    boundary, code = 0, -signal.SIGKILL
    while code:
        boundary += 1
        assert boundary < 400, "the upgrade went on past 400 boundaries"
        registry = old_registry(tmp_path / str(boundary))
        code = init_and_die(registry, boundary)
        assert code in (0, -signal.SIGKILL)
        assert registry.init() == []
        assert_upgraded(registry)
        shutil.rmtree(tmp_path / str(boundary))
    assert boundary > 50
