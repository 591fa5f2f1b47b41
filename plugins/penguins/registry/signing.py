"""The keys, Ed25519: the private one signs what is published; the public ones verify it, and can sign nothing."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from penguins.files import KIBIBYTE, read_file, replace_file
from penguins.registry.errors import RegistryError, reason

MAX_FILE_BYTES = 64 * KIBIBYTE


@dataclass(frozen=True)
class Keys:
    """The files of the keys. They are read at each use, so that a new key needs no restart.

    Parameters
    ----------
    private : Path
        PEM (PKCS #8). Only whoever publishes or activates has it.
    public : Path
        One key per line, its 32 bytes in base64. Signatures by any of them are accepted.
    """

    private: Path
    public: Path

    def sign(self, content: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self.private_key().sign(content)

    def verify(self, content: bytes, signature: bytes) -> bool:
        """Say whether the signature is that of the content, by any of the public keys."""
        for number, line in enumerate(_lines(self.public), start=1):
            try:
                key = Ed25519PublicKey.from_public_bytes(base64.b64decode(line, validate=True))
            except ValueError:
                raise RegistryError(
                    f"the public keys {self.public}: what stands in place {number} is not a key, 32 bytes in base64"
                ) from None
            with suppress(InvalidSignature):
                key.verify(signature, content)
                return True
        return False

    def private_key(self) -> Ed25519PrivateKey:
        """Return the key that signs, or raise RegistryError with what to do."""
        try:
            key = load_pem_private_key(read(self.private), password=None)
        except OSError as error:
            raise RegistryError(
                f"the signing key {self.private} cannot be read: {reason(error)}. It is only where models are "
                "published, in the stack airflow-scheduler and airflow-init, and is created by `make run` and by the "
                "stack's first start. Set MODEL_SIGNING_KEY_FILE to use another."
            ) from error
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise RegistryError(
                f"the signing key {self.private} is not an Ed25519 key in PEM. `python -m penguins.registry init`, "
                "`make run` and the stack's start replace the key of an earlier release, or make one if there is none."
            )
        return key

    def create(self) -> bool:
        """Make a key unless there is one, and see that its public half is among the public ones. Say if it is new."""
        if not self.private.exists() or not self.private.stat().st_size:
            self.renew()
            return True
        self._make_public(self.private_key())
        return False

    def renew(self, below: bytes = b"") -> None:
        """Make a new key, and `save` it."""
        self.save(Ed25519PrivateKey.generate(), below)

    def save(self, key: Ed25519PrivateKey, below: bytes = b"") -> None:
        """Make a key the one that signs from now on. `below` is what the file has after it."""
        self._make_public(key)  # first: whatever is signed can be verified
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(self.private, pem + below, mode=0o600)

    def _make_public(self, key: Ed25519PrivateKey) -> None:
        lines = _lines(self.public) if self.public.exists() else []
        if (line := base64.b64encode(key.public_key().public_bytes_raw())) not in lines:
            _write(self.public, b"\n".join([line, *lines]) + b"\n", mode=0o644)


def read(file: Path) -> bytes:
    # It lies outside of the volume, and where secrets are mounted it may well be a link.
    return read_file(file, limit=MAX_FILE_BYTES, follow_links=True)


def _lines(public: Path) -> list[bytes]:
    try:
        return read(public).split()
    except OSError as error:
        raise RegistryError(
            f"the public keys {public} cannot be read: {reason(error)}. They are written by `make run` and by the "
            "stack's start. Set MODEL_PUBLIC_KEYS_FILE to use others."
        ) from error


def _write(file: Path, content: bytes, mode: int) -> None:
    try:
        file = file.resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content, mode=mode, like=file.stat() if file.exists() else None)
    except OSError as error:
        raise RegistryError(f"the key file {file} cannot be replaced: {reason(error)}; it stays as it is") from error
