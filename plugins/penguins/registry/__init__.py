"""The models on the shared volume. `python -m penguins.registry --help` lists the commands."""

from penguins.registry.errors import BeingPublishedError, NoModelError, RegistryError
from penguins.registry.names import VERSION_PATTERN
from penguins.registry.pointer import Pointer
from penguins.registry.signing import Keys
from penguins.registry.store import PROJECT, Registry
from penguins.registry.waiting import is_held_back, waiting_versions

__all__ = [
    "PROJECT",
    "VERSION_PATTERN",
    "BeingPublishedError",
    "Keys",
    "NoModelError",
    "Pointer",
    "Registry",
    "RegistryError",
    "is_held_back",
    "waiting_versions",
]
