"""The models on the shared volume. `python -m penguins.registry --help` lists the commands."""

from penguins.registry.store import PROJECT, VERSION_PATTERN, NoModelError, Registry, RegistryError

__all__ = ["PROJECT", "VERSION_PATTERN", "NoModelError", "Registry", "RegistryError"]
