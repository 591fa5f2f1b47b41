"""The names of versions: the second in which one was published, and how its pickle's sha256 begins."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from penguins.registry.errors import RegistryError

VERSION_PATTERN = "[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}"
NO_VERSION = "is not a version; one looks like 20260131T235959Z-0123abcd"
# A clock that is off by more than this is not followed: else one that once stood in 2200 would name all versions.
FUTURE = timedelta(days=1)
_VERSION = re.compile(VERSION_PATTERN)
_TIME = "%Y%m%dT%H%M%SZ"


def is_version(name: str) -> bool:
    return bool(_VERSION.fullmatch(name))


def checked(name: str) -> str:
    if not is_version(name):
        raise RegistryError(f"{name[:80]!r} {NO_VERSION}")
    return name


def name_of(created_at: datetime, sha256: str) -> str:
    return f"{created_at:{_TIME}}-{sha256[:8]}"


def time_of(version: str) -> datetime:
    """Return the time in a version's name, or the latest one that there is if the name has none."""
    try:
        return datetime.strptime(version.partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def is_from_the_future(version: str) -> bool:
    """Say whether a name is so far ahead of this clock that the next one does not follow it."""
    return time_of(version) > datetime.now(UTC) + FUTURE
