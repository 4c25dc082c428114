"""What can be told of settings before anything is started: for `taskloom config check`, and for a server first of all."""

from __future__ import annotations

import ipaddress
import socket
import ssl

from taskloom.core.errors import ConfigError
from taskloom.core.predictor import choose_runtime
from taskloom.core.registry import Registry
from taskloom.core.settings import ServerSettings, Settings, TlsSettings
from taskloom.core.store import ModelStore
from taskloom.core.types import ModelRef


def check_settings(settings: Settings, registry: Registry, store: ModelStore) -> None:
    """Raises the `TaskloomError` that would keep a server with these settings from starting, as far as it can be seen from
    here: an address without protection, TLS files, models that the store has not got, plugins that are not there."""
    check_exposure(settings.server, settings.tls)
    check_tls_files(settings.tls)
    here = settings.ray.address is None  # replicas elsewhere may have what is missing here
    for name, model in settings.models.items():
        artifact = store.resolve(ModelRef(name=name, version=model.version))
        registry.tasks.get(artifact.manifest.task)
        if here:
            choose_runtime(registry, settings.pools[model.pool].runtime.runtime, artifact)
    for pool in settings.pools.values():
        if pool.runtime.runtime != "auto":
            registry.runtimes.get(pool.runtime.runtime)
    if len(registry.retrievers):
        registry.retrievers.get(settings.knowledge.retriever)


def check_tls_files(tls: TlsSettings) -> None:
    """Raises `ConfigError` for files that are not there, and for a certificate and a key that are no pair."""
    for name in ("certificate", "key", "client_ca"):
        path = getattr(tls, name)
        if path is not None and not path.is_file():
            raise ConfigError(f"tls.{name} is {path}, and there is no such file (looked for at {path.absolute()})")
    if tls.certificate is None or tls.key is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls.certificate, tls.key, password="")  # without one OpenSSL would ask the terminal
    except (ssl.SSLError, OSError) as exc:
        raise ConfigError(
            f"tls.certificate ({tls.certificate}) and tls.key ({tls.key}) can't be used together: {exc}; give a certificate "
            "in PEM form and the private key that it was made with, without a passphrase"
        ) from exc


def check_exposure(settings: ServerSettings, tls: TlsSettings) -> None:
    """Raises `ConfigError` if keys and texts would cross a network unencrypted without anybody having asked for it."""
    if tls.enabled or settings.insecure_public or _is_loopback(settings.host):
        return
    raise ConfigError(
        f"server.host is {settings.host!r}, which other machines can reach, and there is no TLS: set tls.certificate and "
        "tls.key, or listen on 127.0.0.1, or set server.insecure_public=true if the network itself encrypts"
    )


def _is_loopback(host: str) -> bool:
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError as exc:
        raise ConfigError(f"server.host is {host!r}, which is no address of this machine: {exc.strerror}") from exc
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
