"""What the registry refuses to do. No message says what a file holds, unless it is the name of a version."""


class RegistryError(RuntimeError):
    """A version, or the pointer to it, is missing, incomplete or not signed with this key."""


class NoModelError(RegistryError):
    """Nothing has been published yet."""


class BeingPublishedError(RegistryError):
    """The first version to serve is there, but not yet the pointer to it: whoever publishes it still holds the lock."""


def reason(error: Exception) -> str:
    """Return why a file could not be read, and nothing of what it holds."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not text" if isinstance(error, UnicodeDecodeError) else "it is not JSON"
