"""From a release that signed with HMAC-SHA256: what its keys have signed is signed with Ed25519, and they are dropped.

To be removed, with its use in store.py, when nobody upgrades from such a release any more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from penguins.files import MEBIBYTE, read_file, replace_file
from penguins.registry.errors import RegistryError, reason
from penguins.registry.pointer import CURRENT, LAST, MAX_BYTES, Pointer, write_pointer
from penguins.registry.signing import Keys, read

END_OF_KEY = b"-----END PRIVATE KEY-----"
MIN_KEY_BYTES = 32


def old_keys(keys: Keys) -> list[bytes]:
    """Return the HMAC keys in the key file, usually none. If there are any, a new key stands above them from now on.

    They stay there until all is signed: whoever is killed on the way goes on at the next start.
    """
    try:
        _, new, rest = read(keys.private).rpartition(END_OF_KEY)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RegistryError(f"the signing key {keys.private} cannot be read: {reason(error)}") from error
    old = rest.split()
    if old and (shortest := min(map(len, old))) < MIN_KEY_BYTES:
        raise RegistryError(
            f"the signing key {keys.private} is neither an Ed25519 key in PEM nor one of an earlier release: it has "
            f"{shortest} bytes, and those had {MIN_KEY_BYTES} or more. Remove it, and a new one is made."
        )
    if old and not new:
        keys.renew(below=b"\n".join(old) + b"\n")
    return old


def sign_anew(root: Path, keys: Keys, old: list[bytes], versions: Iterable[str]) -> None:
    """Sign what the old keys have signed, and take them out of the key file. The caller holds the registry's lock."""
    for path in (root / version / "manifest.json" for version in versions):
        content = _read(path, 16 * MEBIBYTE)
        facts = _signed_facts(content, old)
        if facts and facts.get("version") == path.parent.name:
            with suppress(IsADirectoryError):  # somebody put it there, and the version is refused
                replace_file(path.with_name("manifest.sig"), keys.sign(content), mode=stat.S_IMODE(path.stat().st_mode))
    for path in (root / CURRENT, root / LAST):
        version, _, proof = _read(path, MAX_BYTES).partition(b"\n")
        name = version.decode(errors="replace")
        if facts := _signed_facts(proof, old, current=name):
            write_pointer(path, keys, Pointer(name, **facts))
    keys.save(keys.private_key())


def _read(path: Path, limit: int) -> bytes:
    try:
        return read_file(path, limit=limit)
    except OSError:
        return b""


def _signed_facts(content: bytes, keys: list[bytes], **others: str) -> dict[str, Any] | None:
    """Return the facts of a JSON object if one of the keys has signed them and the others, or None."""
    try:
        facts = json.loads(content)
        claimed = str(facts.pop("signature")).encode()
        canonical = json.dumps({**facts, **others}, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        return None
    signatures = (hmac.new(key, canonical, hashlib.sha256).hexdigest().encode() for key in keys)
    return facts if any(hmac.compare_digest(claimed, signature) for signature in signatures) else None
