"""TLS by the files that a store URL names: what verifies a server, and what two hosts of a cluster prove each other."""

from __future__ import annotations

import base64
import ipaddress
import logging
import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sojourn.errors import ConfigurationError

_log = logging.getLogger("sojourn.store")

_CRL = re.compile(r"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----")

_OWN_AUTHORITY = re.compile(r"sojourn test authority [0-9a-f]{8}")  # as crypto/certificates.py names what it makes


def context_of(place: str, ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """Return what verifies servers: by the authorities in *ca*, or the system's when that is None.

    It shows them the certificate in *cert*, whose key is in *key* or in the same file. There is no way to have it
    verify nothing. Raises ConfigurationError for files that cannot be used; *place* names the store, without secrets.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:  # with a passphrase that is wrong: else OpenSSL would ask the terminal for one, and wait
            context.load_cert_chain(cert, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{name}={path}" for name, path in (("ca", ca), ("cert", cert), ("key", key)) if path)
        raise ConfigurationError(
            f"{place}: {files} cannot be used ({error}); name PEM files, and a key without a passphrase"
        ) from error
    return context


class HostCertificates:
    """What proves to the other hosts of a cluster who this one is, and to this one who they are.

    The *directory* has ``ca.pem``, ``host.pem`` and ``host.key``, and perhaps ``crl.pem``, the authority's list of
    revoked certificates. The files are looked at for each new connection and read again when one has changed, so that
    certificates are replaced while everything runs. New files that cannot be used are passed over, with an error in
    the log, until they can: a half-written certificate must not cut a host off. TLS 1.3 both ways; no session is
    resumed, or a revoked certificate would come back in with an old ticket.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        """Read them for the host called *name*. Raises ConfigurationError for files that cannot prove that."""
        self.directory, self.name = Path(directory), name
        self.generation = 0
        """How often new files have been taken over."""
        self._signature = self._look()
        self._server, self._client = self._read()

    def server(self) -> ssl.SSLContext:
        """Return what verifies hosts that connect here."""
        self.refresh()
        return self._server

    def client(self) -> ssl.SSLContext:
        """Return what verifies hosts that this one connects to."""
        self.refresh()
        return self._client

    def refresh(self) -> None:
        """Read the files again if one has changed."""
        if (signature := self._look()) == self._signature:
            return
        self._signature = signature
        try:
            self._server, self._client = self._read()
        except ConfigurationError as error:
            _log.error("%s; the certificates read before stay in use", error)
            return
        self.generation += 1
        _log.info("the certificates in %s have changed and are used from now on", self.directory)

    def may_be_revoked(self, certificate: Mapping[str, Any]) -> bool:
        """Tell whether the list of revoked certificates seems to name one that was verified before there was that list.

        It looks for the serial number, in front of a date as in RFC 5280, section 5.1, so it may be wrong about a short
        number, never about one that is in the list. Whoever is cut off by mistake connects again and is verified.
        """
        serial = int(certificate.get("serialNumber", "0"), 16)
        number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        entry = b"\x02" + len(number).to_bytes(1, "big") + number
        return any(entry + date in revoked for revoked in self._revoked() for date in (b"\x17", b"\x18"))

    def _revoked(self) -> list[bytes]:
        try:
            text = (self.directory / "crl.pem").read_text(encoding="ascii", errors="replace")
        except OSError:
            return []
        return [base64.b64decode(body) for body in _CRL.findall(text)]

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_identity(self.directory / name) for name in ("ca.pem", "host.pem", "host.key", "crl.pem"))

    def _read(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        try:
            server, client = self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)
            server.num_tickets = 0
            _shake_hands(server, client, self.name)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(
                f"tls={self.directory}: ca.pem, host.pem and host.key do not prove that this is {self.name} ({error}); "
                "put a certificate of that name there, signed by ca.pem, and its key without a passphrase"
            ) from error
        return server, client

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.hostname_checks_common_name = False
        context.load_verify_locations(self.directory / "ca.pem")
        context.load_cert_chain(self.directory / "host.pem", self.directory / "host.key", password=lambda: "")
        if (self.directory / "crl.pem").exists():
            context.load_verify_locations(self.directory / "crl.pem")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Let a host connect to itself, in memory: what would refuse it elsewhere refuses it here. Raises SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (one, other, one, other):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()


def other_authorities(directory: str | os.PathLike[str]) -> list[str]:
    """Return the names of authorities in ``ca.pem`` that ``sojourn cluster certs`` has not made for one cluster alone.

    Empty where the file cannot be read; ``HostCertificates`` says why.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(Path(directory) / "ca.pem")
    except OSError:  # ssl.SSLError is one
        return []
    names = (_common_name(certificate) for certificate in context.get_ca_certs())
    return [name for name in names if not _OWN_AUTHORITY.fullmatch(name)]


def _common_name(certificate: Mapping[str, Any]) -> str:
    fields = dict(field for part in certificate.get("subject", ()) for field in part)
    return str(fields.get("commonName") or fields.get("organizationName") or "an authority without a name")


def identities(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names and addresses of hosts in a verified certificate, as ``SSLObject.getpeercert`` returns it."""
    entries = (certificate or {}).get("subjectAltName", ())
    return frozenset(_normal(kind, value) for kind, value in entries if kind in ("DNS", "IP Address"))


def _normal(kind: str, value: str) -> str:
    return str(ipaddress.ip_address(value)) if kind == "IP Address" else value.lower()
