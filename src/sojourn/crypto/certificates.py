"""Certificates for the hosts of a cluster, and the test authority that signs them.

Who has an authority of their own takes that: what hosts need is X.509 (RFC 5280) with the host's name or address as
subject alternative name (RFC 6125: the common name is not looked at), for servers and for clients alike, since each
host is both. The authority made here is for tests and for small clusters. Its key can make a certificate for any host:
it stays where it was made, and no host needs it.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sojourn.errors import ConfigurationError

AUTHORITY, HOST, HOST_KEY = "ca.pem", "host.pem", "host.key"  # what the ``tls=`` directory of a host holds
REVOKED = "crl.pem"  # the list of revoked certificates, which may lie there, too
PRIVATE, PRIVATE_KEY = "ca", "ca.key"  # the directory that no host gets, and the key in it
AUTHORITY_DAYS = 3650
HOST_DAYS = 365
SLACK = datetime.timedelta(hours=1)  # begins in the past: the clocks of two hosts differ

_LABEL = r"[0-9a-z](?:[0-9a-z-]{0,61}[0-9a-z])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")  # RFC 1123, 2.1
_NUMBER = re.compile(r"(?:.*\.)?[0-9]+")  # a last label of digits alone is meant as an address


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of one host: the directory that it gets, and the one that was there before, kept under its name."""

    host: str
    directory: Path
    until: datetime.datetime
    before: Path | None = None


class Authority:
    """A test authority in a directory: ``ca/ca.pem`` and ``ca/ca.key``. Times are seconds since the epoch.

    Every method raises ConfigurationError, naming the file and the cure. No certificate or key is ever overwritten.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).absolute()
        self.certificate = self.directory / PRIVATE / AUTHORITY
        self.key = self.directory / PRIVATE / PRIVATE_KEY
        self.revoked = self.directory / PRIVATE / REVOKED

    def exists(self) -> bool:
        """Tell whether there is one already."""
        return self.key.exists() or self.certificate.exists()

    def create(self, now: float, days: int = AUTHORITY_DAYS) -> None:
        """Make one: a certificate that signs others, and its key."""
        if self.exists():
            raise ConfigurationError(f"{self.key.parent} has an authority already; it is never overwritten")
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"sojourn test authority {os.urandom(4).hex()}")
        start, end = _span(now, days)
        builder = _builder(name, name, key.public_key(), key.public_key(), start, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        certificate = builder.add_extension(_usage(signs=True), critical=True).sign(key, hashes.SHA256())
        _place(self.key.parent, {AUTHORITY: _pem(certificate), PRIVATE_KEY: _key_pem(key)})

    def issue(self, host: str, now: float, days: int = HOST_DAYS) -> Issued:
        """Make a certificate for a host that has none: a directory of its name with what ``tls=`` is to name."""
        self.check_new(host)
        return self._issue(host, self.directory_of(host), now, days)

    def renew(self, host: str, now: float, days: int = HOST_DAYS) -> Issued:
        """Make a host another certificate and key. The directory with the old ones is kept under another name."""
        directory = self.directory_of(host)
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is not there; to make a first certificate, leave --renew out")
        before = _unused(directory, "before", now)
        directory.rename(before)
        try:
            issued = self._issue(host, directory, now, days)
        except BaseException:
            before.rename(directory)
            raise
        return Issued(issued.host, issued.directory, issued.until, before)

    def revoke(self, host: str, now: float) -> list[Path]:
        """Put all certificates that a host has had here on the list in ``ca/crl.pem``; return their directories.

        They are kept under other names, so that the host can be given a new one.
        """
        directory = self.directory_of(host)
        found = [directory, *self.directory.glob(f"{directory.name}_before_*")]
        serials = [serial for path in found if (serial := _serial(path / HOST)) is not None]
        if not serials:
            raise ConfigurationError(f"{directory} has no certificate, so there is nothing to revoke")
        self._list([*self._listed(), *(_revoked(serial, now) for serial in serials)], now)
        after = [_unused(path, "revoked", now) for path in found if path.is_dir()]
        for path, other in zip([path for path in found if path.is_dir()], after, strict=True):
            path.rename(other)
        return after

    def _listed(self) -> list[x509.RevokedCertificate]:
        return list(x509.load_pem_x509_crl(self.revoked.read_bytes())) if self.revoked.exists() else []

    def _list(self, revoked: Sequence[x509.RevokedCertificate], now: float) -> None:
        """Put the list in place as a whole. It is valid as long as the authority: one that has run out stops all."""
        authority, signs = self._read()
        builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
        builder = builder.last_update(_span(now, 0)[0]).next_update(authority.not_valid_after_utc)
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key())
        builder = builder.add_extension(by, critical=False).add_extension(x509.CRLNumber(len(revoked)), critical=False)
        for one in revoked:
            builder = builder.add_revoked_certificate(one)
        new = self.revoked.with_name(f".{REVOKED}.{os.urandom(4).hex()}")
        _write(new, builder.sign(signs, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        new.replace(self.revoked)

    def check_new(self, host: str) -> None:
        """Make sure that a host has a proper name and no certificate here yet."""
        if (directory := self.directory_of(host)).exists():
            raise ConfigurationError(f"{directory} is there already and is not overwritten; to replace it, use --renew")

    def directory_of(self, host: str) -> Path:
        """Return the directory that a host gets."""
        return self.directory / named(host)

    def hosts(self) -> list[str]:
        """Return the hosts that have a certificate here, sorted."""
        found = (path.parent for path in self.directory.glob(f"*/{HOST}"))
        return sorted(path.name for path in found if _is_named(path.name))

    def _issue(self, host: str, directory: Path, now: float, days: int) -> Issued:
        authority, signs = self._read()
        key = ec.generate_private_key(ec.SECP256R1())
        start, end = _span(now, days)
        end = min(end, authority.not_valid_after_utc)
        if end <= start + SLACK:
            raise ConfigurationError(f"the authority in {self.certificate} is over since {end:%Y-%m-%d}; make another")
        builder = _builder(_name(named(host)[:64]), authority.subject, key.public_key(), signs.public_key(), start, end)
        for extension, critical in _of_host(host):
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(signs, hashes.SHA256())
        _place(directory, {AUTHORITY: _pem(authority), HOST: _pem(certificate), HOST_KEY: _key_pem(key)})
        return Issued(named(host), directory, end)

    def _read(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"the authority in {self.key.parent} cannot be used ({error})") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(f"{self.key} is not the key of {self.certificate}; put the right one there")
        return certificate, key


def named(host: str) -> str:
    """Return a host's name or address as certificates and directories have it. Raises ConfigurationError."""
    name = host.lower()
    if _NUMBER.fullmatch(name) or ":" in name:
        try:
            return str(ip_address(name))
        except ValueError:
            pass  # as below
    elif len(name) <= 253 and name != PRIVATE and _NAME.fullmatch(name):
        return name
    raise ConfigurationError(f"host {ascii(host)[:80]}: give a host name or an IP address, without a port")


def _is_named(text: str) -> bool:
    try:
        return named(text) == text
    except ConfigurationError:
        return False


# -- what stands in a certificate ----------------------------------------------------------------------------------


def _of_host(host: str) -> Sequence[tuple[x509.ExtensionType, bool]]:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs=False), True),
        (x509.ExtendedKeyUsage(both), False),
        (x509.SubjectAlternativeName([_alternative(named(host))]), False),
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    by: ec.EllipticCurvePublicKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by), critical=False)
    )


def _span(now: float, days: int) -> tuple[datetime.datetime, datetime.datetime]:
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return moment - SLACK, moment + datetime.timedelta(days=days)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _revoked(serial: int, now: float) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial)
    return builder.revocation_date(datetime.datetime.fromtimestamp(now, datetime.UTC)).build()


def _serial(path: Path) -> int | None:
    """Return the serial number of the certificate in a file, or None where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).serial_number
    except (OSError, ValueError):
        return None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# -- files ---------------------------------------------------------------------------------------------------------


def _place(directory: Path, files: dict[str, bytes]) -> None:
    """Put *files* into a new *directory*, which shows when all of them are there. Modes 0700 and 0600."""
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))  # 0700
        try:
            for name, content in files.items():
                _write(new / name, content)
            new.rename(directory)  # refused where something is there, unless that is an empty directory
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be made: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _unused(directory: Path, why: str, now: float) -> Path:
    """Return a name beside *directory* that says why and when it was put there."""
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    name, number = f"{directory.name}_{why}_{moment:%Y%m%dT%H%M%SZ}", 1
    found = directory.with_name(name)
    while found.exists():
        number += 1
        found = directory.with_name(f"{name}_{number}")
    return found
