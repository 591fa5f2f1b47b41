"""A release in two steps: the versions that were published without being activated, and wait for it.

Both facts are signed. A version's manifest says that it was not activated when it was published, and the pointer says
that it has been since.
"""

from __future__ import annotations

from penguins.registry.errors import RegistryError
from penguins.registry.pointer import released_versions
from penguins.registry.store import Registry


def waiting_versions(registry: Registry) -> list[str]:
    """Return the versions that are held back and newer than the one that serves, newest first."""
    try:
        serving = registry.current()
    except RegistryError:
        serving = ""
    return [version for version in registry.versions() if version > serving and is_held_back(registry, version)]


def is_held_back(registry: Registry, version: str) -> bool:
    """Say whether a version was published without being activated, and has not been since.

    A version that cannot be trusted is not held back: it is refused for another reason.
    """
    try:
        waited = "activate" in registry.manifest(version)
    except RegistryError:
        return False
    return waited and version not in released_versions(registry.root, registry.keys)
