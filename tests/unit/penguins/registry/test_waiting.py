"""A release in two steps: what is published without being activated waits, and what serves stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from penguins.registry import NoModelError, Registry, RegistryError, is_held_back, waiting_versions
from penguins.registry.store import VERSIONS_KEPT

Trained = tuple[bytes, dict[str, Any]]
Publish = Callable[[], dict[str, Any]]


def hold_back(registry: Registry, trained: Trained) -> str:
    return registry.publish(*trained, activate=False)["version"]


def test_a_version_that_is_held_back_waits_and_activate_releases_it_for_good(
    registry: Registry, publish: Publish, trained: Trained
) -> None:
    first = publish()["version"]
    pointers = [registry.root / name for name in ("current", ".last-pointer")]
    before = [pointer.read_bytes() for pointer in pointers]
    second, third = hold_back(registry, trained), hold_back(registry, trained)
    assert [pointer.read_bytes() for pointer in pointers] == before
    assert waiting_versions(registry) == [third, second]
    registry.activate(third)
    assert registry.current() == third
    assert waiting_versions(registry) == []  # the second one is older than what serves
    registry.activate(first)
    assert waiting_versions(registry) == [second]  # the third has served, and was taken back
    assert [v for v in registry.versions() if is_held_back(registry, v)] == [second]
    registry.activate(second)
    registry.activate(first)
    fourth = publish()["version"]
    assert (registry.current(), waiting_versions(registry)) == (fourth, [])
    assert not any(is_held_back(registry, v) for v in registry.versions())


def test_an_older_pointer_that_is_put_back_makes_nothing_wait_again(
    registry: Registry, publish: Publish, trained: Trained
) -> None:
    publish()
    pointer = (registry.root / "current").read_bytes()
    version = hold_back(registry, trained)
    registry.activate(version)
    (registry.root / "current").write_bytes(pointer)
    now, problem = registry.pointer()
    assert now.current == version
    assert "an older pointer was put back" in str(problem)
    assert waiting_versions(registry) == []


def test_whether_a_version_waits_is_signed(registry: Registry, publish: Publish, trained: Trained) -> None:
    publish()
    version = hold_back(registry, trained)
    registry.activate(version)
    for name in ("current", ".last-pointer"):
        path = registry.root / name
        path.write_text(path.read_text().replace(f'"released": ["{version}"]', '"released": []'))
    with pytest.raises(RegistryError, match="its signature does not match"):
        registry.current()
    manifest = registry.root / version / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"activate": false', '"activate": true'))
    with pytest.raises(RegistryError, match="its signature does not match"):
        registry.manifest(version)


def test_while_nothing_has_served_yet_the_message_says_how_the_one_that_waits_does(
    registry: Registry, trained: Trained
) -> None:
    hold_back(registry, trained)
    version = hold_back(registry, trained)
    assert waiting_versions(registry)[0] == version
    with pytest.raises(NoModelError, match=f"registry activate {version}`.* or trigger the DAG modelo_penguin"):
        registry.current()
    registry.activate(version)
    assert registry.current() == version


def test_a_pointer_forgets_the_versions_that_are_gone(registry: Registry, publish: Publish, trained: Trained) -> None:
    def released() -> Any:
        return json.loads((registry.root / "current").read_text().splitlines()[1])["released"]

    first = publish()["version"]
    assert released() == []
    version = hold_back(registry, trained)
    registry.activate(version)
    assert released() == [version]
    shutil.rmtree(registry.root / version)
    registry.activate(first)
    assert released() == []


def test_the_serving_version_is_kept_however_many_wait(registry: Registry, publish: Publish, trained: Trained) -> None:
    unserved = [hold_back(registry, trained) for _ in range(VERSIONS_KEPT + 1)]
    assert registry.versions() == unserved[:0:-1]  # nothing serves yet
    serving = publish()["version"]
    held_back = [hold_back(registry, trained) for _ in range(VERSIONS_KEPT + 2)]
    assert registry.versions() == [*held_back[:1:-1], serving]
    registry.read(registry.current())


def test_nothing_is_removed_while_nobody_knows_what_serves(
    registry: Registry, publish: Publish, trained: Trained
) -> None:
    publish()
    old = [f"202001{day}T000000Z-0123abcd" for day in range(22, 10, -1)]
    for name in old:
        (registry.root / name).mkdir()
    for name in ("current", ".last-pointer"):
        (registry.root / name).write_text("unsigned")
    hold_back(registry, trained)
    assert registry.versions()[2:] == old
    publish()
    assert registry.versions()[3:] == old[:VERSIONS_KEPT]
