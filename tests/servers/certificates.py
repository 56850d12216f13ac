"""A certificate authority for one test run, and what it signed: a certificate of a server, or of a cluster's hosts."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=1)
SLACK = datetime.timedelta(hours=1)  # begins in the past: a clock that is set back while tests run spoils nothing


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the authority's certificate, the server's certificate and the server's key."""

    authority: Path
    certificate: Path
    key: Path


def issue(directory: Path) -> Certificates:
    """Write a new authority, and a certificate for ``127.0.0.1`` and ``localhost``, into *directory*."""
    ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _build("sojourn tests", "sojourn tests", ours, ours, authority=True)
    server = _build("localhost", "sojourn tests", theirs, ours, authority=False)
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    files.authority.write_bytes(_pem(authority))
    files.certificate.write_bytes(_pem(server))
    files.key.write_bytes(_private(theirs))
    return files


class Authority:
    """A certificate authority that makes hosts' directories, as the ``tls=`` of a cluster names them."""

    def __init__(self, name: str = "sojourn tests") -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._own = _build(name, name, self._key, self._key, authority=True)
        self._revoked: list[x509.RevokedCertificate] = []

    def host(
        self,
        directory: Path,
        *names: str,
        ends: datetime.datetime | None = None,
        since: datetime.datetime | None = None,
    ) -> int:
        """Write ``ca.pem``, ``host.pem`` and ``host.key`` for a host of these *names*; return the serial number."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _build(names[0], self.name, key, self._key, authority=False, names=names, since=since, ends=ends)
        (directory / "ca.pem").write_bytes(_pem(self._own))
        (directory / "host.pem").write_bytes(_pem(certificate))
        (directory / "host.key").write_bytes(_private(key))
        return certificate.serial_number

    def revoke(self, directory: Path, *serials: int) -> None:
        """Write ``crl.pem`` into *directory*: these are revoked, and all that were before."""
        now = datetime.datetime.now(datetime.UTC)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - SLACK)
            self._revoked.append(entry.build())
        names = x509.CertificateRevocationListBuilder().issuer_name(_name(self.name))
        builder = names.last_update(now - SLACK).next_update(now + VALID)
        for revoked in self._revoked:
            builder = builder.add_revoked_certificate(revoked)
        crl = builder.sign(self._key, hashes.SHA256())
        new = directory / "crl.pem.new"
        new.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        new.replace(directory / "crl.pem")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _build(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    since: datetime.datetime | None = None,
    ends: datetime.datetime | None = None,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    by_identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since or now - SLACK)
        .not_valid_after(ends or now + VALID)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(_usage(authority), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(by_identifier, critical=False)
        .sign(by, hashes.SHA256())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
