"""TLS from files, read again when they change."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from taskloom.core.errors import ConfigError
from taskloom.core.settings import TlsSettings

log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class CertificateFiles:
    """Certificate, key and client CA on disk. gRPC asks `reload` before every handshake; connections that stand keep what
    they have. Files that can't be used are reported, and the last good ones stay in force."""

    def __init__(self, settings: TlsSettings) -> None:
        if settings.certificate is None or settings.key is None:
            raise ConfigError("tls needs both `certificate` and `key`")
        self._certificate = settings.certificate
        self._key = settings.key
        self._client_ca = settings.client_ca
        self._lock = threading.Lock()
        self._stamp: Stamp = ()

    def credentials(self) -> grpc.ServerCredentials:
        """For a server port; raises `ConfigError` that names the file and what is wrong with it."""
        self._stamp = self._read_stamp()
        return grpc.dynamic_ssl_server_credentials(
            self._load(),
            self.reload,  # type: ignore[arg-type] # the stubs forget that None means "as before"
            require_client_authentication=self._client_ca is not None,
        )

    def reload(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration, or None if the files are as before. Called from gRPC's threads; never raises."""
        with self._lock:
            try:
                stamp = self._read_stamp()
                if stamp == self._stamp:
                    return None
                self._stamp = stamp
                loaded = self._load()
            except ConfigError as error:
                log.error("the new TLS files can't be used, the old ones stay in force: %s", error)
                return None
            log.info("TLS files were read again")
            return loaded

    def _read_stamp(self) -> Stamp:
        return tuple(_stamp(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)

    def _load(self) -> grpc.ServerCertificateConfiguration:
        certificate, key = _read(self._certificate), _read(self._key)
        _check_pair(self._certificate, certificate, self._key, key)
        client_ca = None
        if self._client_ca is not None:
            client_ca = _read(self._client_ca)
            _certificates(self._client_ca, client_ca)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise ConfigError(f"TLS file {path} can't be read: {exc.strerror}") from exc
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"TLS file {path} can't be read: {exc.strerror}") from exc


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as exc:
        raise ConfigError(f"TLS file {path} holds no certificate in PEM form: {exc}") from exc


def _check_pair(certificate_path: Path, certificate: bytes, key_path: Path, key: bytes) -> None:
    leaf = _certificates(certificate_path, certificate)[0]
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"TLS file {key_path} holds no private key in PEM form without a password: {exc}") from exc
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ConfigError(f"the private key {key_path} does not belong to the certificate {certificate_path}")
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise ConfigError(f"the certificate {certificate_path} expired at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
