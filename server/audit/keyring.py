"""The secrets of the audit log, in files outside the database: HMAC keys for payloads, and the key that signs checkpoints.

    <home>/keys/audit-hmac.key                 one `<key id> <hex>` a line; the last line is the key in use
    <home>/keys/audit-checkpoint.key           Ed25519, PEM; only its owner can read it
    <home>/keys/audit-checkpoint.<id>.pub      its public half; those of earlier keys stay

To rotate the HMAC key, append a line. To rotate the signing key, move its file away: the next writer makes another.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from taskloom.core.errors import AuditUnavailableError
from taskloom.core.store import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HMAC_FILE = "audit-hmac.key"
SIGNING_FILE = "audit-checkpoint.key"


def write_secret_once(path: Path, content: bytes) -> None:
    """Creates a file that only its owner can read, whole or not at all; one that is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            return  # another process was first; its key is the key
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        aside.unlink(missing_ok=True)


@dataclass(frozen=True)
class HmacRing:
    """The HMAC keys, by id. `current` is the id of the one that new records use."""

    keys: Mapping[str, bytes]
    current: str

    def digest(self, content: bytes) -> str:
        return hmac.digest(self.keys[self.current], content, "sha256").hex()

    def matches(self, key_id: str, content: bytes, expected: str) -> bool | None:
        """Whether the HMAC is right; None if the key is not here."""
        key = self.keys.get(key_id)
        return None if key is None else hmac.compare_digest(hmac.digest(key, content, "sha256").hex(), expected)


def load_hmac_ring(folder: Path, create: bool = False) -> HmacRing:
    """The HMAC keys in a folder; with `create`, a first key is made if there is none. Without a file the ring is empty."""
    path = folder / HMAC_FILE
    if create and not path.exists():
        key = secrets.token_bytes(32)
        write_secret_once(path, f"{hashlib.sha256(key).hexdigest()[:16]} {key.hex()}\n".encode())
    if not path.exists():
        return HmacRing({}, "")
    try:
        pairs = [line.split() for line in path.read_text().splitlines() if line.strip()]
        keys = {key_id: bytes.fromhex(text) for key_id, text in pairs}
    except (ValueError, OSError) as exc:
        raise AuditUnavailableError(f"{path} can't be used: each line must be a key id and a key in hex ({exc})") from exc
    if not keys:
        raise AuditUnavailableError(f"{path} is empty; restore it, or remove it to have a new key made")
    return HmacRing(keys, pairs[-1][0])


@dataclass(frozen=True)
class SigningKey:
    key_id: str
    private: Ed25519PrivateKey

    def sign(self, content: bytes) -> bytes:
        return self.private.sign(content)


def load_signing_key(folder: Path) -> SigningKey:
    """The key that signs checkpoints, made on first use; its public half is put beside it."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = folder / SIGNING_FILE
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
        write_secret_once(path, pem)
    try:
        private = forms.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, OSError) as exc:
        raise AuditUnavailableError(f"{path} can't be used: it must be an Ed25519 key in PEM without password ({exc})") from exc
    if not isinstance(private, Ed25519PrivateKey):
        raise AuditUnavailableError(f"{path} is a key of another kind; checkpoints are signed with Ed25519")
    public = private.public_key()
    key_id = public_key_id(public)
    beside = folder / f"audit-checkpoint.{key_id}.pub"
    if not beside.exists():
        write_atomically(beside, public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return SigningKey(key_id, private)


def load_public_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    """The public keys in a folder, by the id that each of them gives itself (a file's name proves nothing)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = {}
    for path in sorted(folder.glob("audit-checkpoint.*.pub")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, OSError):
            continue  # a checkpoint that needs it will be reported
        if isinstance(key, Ed25519PublicKey):
            found[public_key_id(key)] = key
    return found


def public_key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
