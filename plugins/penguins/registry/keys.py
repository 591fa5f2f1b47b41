"""The signing key, and signatures of facts: HMAC-SHA256 of their canonical JSON."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from penguins.files import KIBIBYTE, read_file, replace_file
from penguins.registry.errors import RegistryError, reason

SHORTEST, LONGEST_FILE = 32, 64 * KIBIBYTE


def signature(key: bytes, facts: Any) -> str:
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, canonical.encode(), hashlib.sha256).hexdigest()


def is_signed(facts: Any, claimed: Any, keys: Iterable[bytes]) -> bool:
    """Say whether a signature is that of the facts, by any of the keys."""
    actual = str(claimed).encode(errors="replace")
    return any(hmac.compare_digest(actual, signature(key, facts).encode()) for key in keys)


def read_keys(file: Path) -> list[bytes]:
    """Return the keys; the first one signs. Raises RegistryError if there is none or one is too short."""
    try:
        # The file lies outside of the volume, and where secrets are mounted it may well be a link.
        keys = read_file(file, limit=LONGEST_FILE, follow_links=True).split()
    except OSError as error:
        raise RegistryError(
            f"the signing key {file} cannot be read: {reason(error)}. It is created by `make run` and "
            "by the stack's first start. Set MODEL_SIGNING_KEY_FILE to use another."
        ) from error
    shortest = min(map(len, keys), default=0)
    if shortest < SHORTEST:
        raise RegistryError(f"the signing key {file} has {shortest} bytes; it must have {SHORTEST} or more")
    return keys


def add_key(file: Path) -> None:
    """Put a new key before the others. The caller holds the registry's lock."""
    keys = [base64.urlsafe_b64encode(secrets.token_bytes(32)), *read_keys(file)]
    try:
        file = file.resolve()
        old = file.stat()
        replace_file(file, b"\n".join(keys) + b"\n", mode=stat.S_IMODE(old.st_mode), like=old)
    except OSError as error:
        raise RegistryError(f"the signing key {file} cannot be replaced: {reason(error)}; it stays as it is") from error
