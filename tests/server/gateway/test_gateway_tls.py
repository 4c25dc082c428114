"""TLS, mutual TLS and rotation, with certificates made here."""

from __future__ import annotations

import ipaddress
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateway_fakes import Running, ask, bearer, failure, running_gateway

from taskloom.core.errors import ConfigError
from taskloom.core.settings import TlsSettings
from taskloom.core.wire.gen import inference_pb2_grpc
from taskloom.server.gateway.tls import CertificateFiles

Code = grpc.StatusCode


class Authority:
    """A certificate authority, for one test."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, self.name, timedelta(days=1), is_ca=True)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.pem)

    def issue(self, name: str, lifetime: timedelta = timedelta(days=1)) -> tuple[Path, Path]:
        """The files of a certificate for localhost and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key, self.name, lifetime, is_ca=False)
        paths = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return paths

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, lifetime: timedelta, *, is_ca: bool
    ) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        end = datetime.now(UTC) + lifetime
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=2))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "first-ca")


async def ask_with(running: Running, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    channel = running.channel(credentials, use_local_subchannel_pool=1)
    call = inference_pb2_grpc.InferenceStub(channel).Infer(ask(), metadata=bearer(), timeout=5)
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.integration
async def test_tls_answers_those_who_trust_it_and_no_one_in_clear(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    async with running_gateway(tls=TlsSettings(certificate=certificate, key=key)) as running:
        assert await ask_with(running, grpc.ssl_channel_credentials(authority.pem)) is Code.OK
        assert await ask_with(running, None) is Code.UNAVAILABLE
        stranger = Authority(tmp_path, "other-ca")
        assert await ask_with(running, grpc.ssl_channel_credentials(stranger.pem)) is Code.UNAVAILABLE


@pytest.mark.integration
async def test_mutual_tls_wants_a_certificate_and_still_a_key(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    settings = TlsSettings(certificate=certificate, key=key, client_ca=authority.path)
    async with running_gateway(tls=settings) as running:
        mine = authority.issue("client")
        known = grpc.ssl_channel_credentials(authority.pem, mine[1].read_bytes(), mine[0].read_bytes())
        assert await ask_with(running, known) is Code.OK
        assert running.audit.entries[-1].facts == {"tls_client": "client"}
        assert await ask_with(running, grpc.ssl_channel_credentials(authority.pem)) is Code.UNAVAILABLE
        theirs = Authority(tmp_path, "other-ca").issue("stranger")
        unknown = grpc.ssl_channel_credentials(authority.pem, theirs[1].read_bytes(), theirs[0].read_bytes())
        assert await ask_with(running, unknown) is Code.UNAVAILABLE
        stub = inference_pb2_grpc.InferenceStub(running.channel(known))
        assert (await failure(stub.Infer(ask())))[0] is Code.UNAUTHENTICATED


@pytest.mark.integration
async def test_new_files_are_used_without_a_restart_and_bad_ones_are_not(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = authority.issue("server")
    old, new = grpc.ssl_channel_credentials(authority.pem), Authority(tmp_path, "second-ca")
    async with running_gateway(tls=TlsSettings(certificate=certificate, key=key)) as running:
        standing = inference_pb2_grpc.InferenceStub(running.channel(old))
        await standing.Infer(ask(), metadata=bearer())
        good = certificate.read_bytes()
        certificate.write_bytes(b"half a certifi")
        with caplog.at_level(logging.ERROR):
            assert await ask_with(running, old) is Code.OK
        assert "stay in force" in caplog.text
        certificate.write_bytes(good)
        for path, fresh in zip((certificate, key), new.issue("renewed"), strict=True):
            path.write_bytes(fresh.read_bytes())
        assert await ask_with(running, grpc.ssl_channel_credentials(new.pem)) is Code.OK
        assert await ask_with(running, old) is Code.UNAVAILABLE
        await standing.Infer(ask(), metadata=bearer())


def test_files_that_cannot_be_used_are_settings_errors(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    _, other_key = authority.issue("other")
    expired, expired_key = authority.issue("expired", timedelta(hours=-1))
    text = tmp_path / "text"
    text.write_text("hello")
    for settings, told in [
        (TlsSettings(certificate=tmp_path / "none", key=key), "can't be read"),
        (TlsSettings(certificate=text, key=key), "no certificate in PEM"),
        (TlsSettings(certificate=certificate, key=text), "no private key in PEM"),
        (TlsSettings(certificate=certificate, key=other_key), "does not belong"),
        (TlsSettings(certificate=certificate, key=key, client_ca=text), "no certificate in PEM"),
        (TlsSettings(certificate=expired, key=expired_key), "expired"),
    ]:
        with pytest.raises(ConfigError, match=told):
            CertificateFiles(settings).credentials()
