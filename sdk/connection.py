"""Where the gateway is, how the channel to it is made, and what a failed call means."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from taskloom.core.errors import ConfigError, DeadlineExceededError, InputTooLargeError, TaskloomError, UnavailableError
from taskloom.core.wire.limits import MAX_REPLY_BYTES
from taskloom.core.wire.status import REQUEST_ID_KEY, from_rpc_error
from taskloom.sdk.retries import RetryPolicy

DEFAULT_ADDRESS = "127.0.0.1:50051"
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""
"""A HealthCheckRequest for the whole server: its one field is left empty."""
_SERVING = b"\x08\x01"
"""Field 1, varint 1: HealthCheckResponse.SERVING. The generated messages come with the server extra only."""

_MAY_SPEAK_TLS = "; one that speaks TLS needs ca_certificate= (--ca-certificate)"
"""gRPC does not tell a server that hangs up, because it was greeted without TLS, from one that isn't there."""


def is_serving(reply: bytes) -> bool:
    return reply.startswith(_SERVING)


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a gateway; made by `resolve`. Its `repr` holds no secret."""

    address: str
    api_key: str | None = field(repr=False)
    secure: bool
    ca_certificate: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = field(default=None, repr=False)
    client_key: bytes | None = field(default=None, repr=False)

    @classmethod
    def resolve(
        cls,
        address: str | None,
        *,
        api_key: str | None,
        ca_certificate: str | Path | None,
        client_certificate: str | Path | None,
        client_key: str | Path | None,
        insecure: bool | None,
    ) -> Connection:
        """Fills what was left open from the environment and the key file; raises `ConfigError`."""
        address = address or os.environ.get("TASKLOOM_ADDRESS") or DEFAULT_ADDRESS
        local = is_loopback(address)
        if insecure and (ca_certificate or client_certificate or client_key):
            raise ConfigError("insecure=True means no TLS, and certificates were given; leave one of them out")
        if (client_certificate is None) != (client_key is None):
            raise ConfigError("a client certificate needs its key, and the key its certificate; give both")
        wanted = bool(ca_certificate or client_certificate) or not local
        secure = wanted if insecure is None else not insecure
        return cls(
            address=address,
            api_key=_find_key(api_key, local=local),
            secure=secure,
            ca_certificate=_read(ca_certificate, "ca_certificate"),
            client_certificate=_read(client_certificate, "client_certificate"),
            client_key=_read(client_key, "client_key"),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None for plaintext."""
        if not self.secure:
            return None
        return grpc.ssl_channel_credentials(self.ca_certificate, self.client_key, self.client_certificate)

    def explain(self, exc: Any, request_id: str = "", timeout_s: float | None = None) -> TaskloomError:
        """The error that a failed call means. `exc` is a `grpc.RpcError` of either API."""
        error = from_rpc_error(exc)
        details = exc.details() or ""
        if made_by_grpc(exc):
            if isinstance(error, UnavailableError):
                error = UnavailableError(self._unreachable(details))
            elif isinstance(error, DeadlineExceededError):
                within = f" within {timeout_s:.3g} s" if timeout_s else ""
                error = DeadlineExceededError(f"no answer from {self.address}{within}; raise timeout_s to wait longer")
            elif exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
                error = InputTooLargeError(f"the message is larger than is allowed: {details}", field="input")
        error.request_id = error.request_id or request_id or None
        return error

    def _unreachable(self, details: str) -> str:
        refused = "refused" in details.lower()
        if self.secure and any(word in details for word in ("Ssl", "SSL", "handshake", "CERTIFICATE", "certificate")):
            return (
                f"no TLS connection to {self.address}: {details}; check ca_certificate, and that the server speaks TLS "
                f"(insecure=True is for servers that do not)"
            )
        reason = "connection refused" if refused else details or "no connection"
        return (
            f"no gateway answers at {self.address} ({reason}); start one with `taskloom serve`, or name another with "
            f"address= or TASKLOOM_ADDRESS{'' if self.secure else _MAY_SPEAK_TLS}"
        )


def channel_options(policy: RetryPolicy) -> Sequence[tuple[str, Any]]:
    """For either API. Reconnects quickly: gRPC's default lets two minutes pass before it looks again."""
    return (
        ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.service_config", policy.service_config()) if policy.max_retries else ("grpc.enable_retries", 0),
    )


def not_ready(address: str, timeout_s: float, reason: TaskloomError | None) -> UnavailableError:
    """The error for a gateway that did not become ready in time."""
    said = f": {reason.message}" if reason else "; it answers, and says that it is not serving yet"
    return UnavailableError(f"the gateway at {address} was not ready within {timeout_s:.3g} s{said}")


def made_by_grpc(exc: Any) -> bool:
    """Whether the failure was noticed on this side, and no gateway said it: then it carries no request id."""
    return REQUEST_ID_KEY not in dict(exc.trailing_metadata() or ())


def is_loopback(address: str) -> bool:
    """Whether the address can be reached from this machine only; raises `ConfigError` for what is no address.

    >>> is_loopback("localhost:50051"), is_loopback("[::1]:50051"), is_loopback("gateway.example:50051")
    (True, True, False)
    """
    if address.startswith("unix:"):
        return True
    host, _, port = address.removeprefix("dns:").lstrip("/").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is no address; write HOST:PORT, for example {DEFAULT_ADDRESS}")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _find_key(api_key: str | None, *, local: bool) -> str | None:
    """What was given, the environment's, or the key of this machine's own server, which goes to no other machine."""
    key = api_key or os.environ.get("TASKLOOM_API_KEY")
    source = "api_key" if api_key else "TASKLOOM_API_KEY"
    if not key and local:
        path = Path(os.environ.get("TASKLOOM_HOME") or "~/.taskloom").expanduser() / "key"
        source = str(path)
        try:
            key = path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the key file {path} can't be read: {exc}") from exc
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"the key from {source} holds characters that no key has; copy it again")
    return key or None


def _read(path: str | Path | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise ConfigError(f"{what} {path} can't be read: {exc.strerror}") from exc
