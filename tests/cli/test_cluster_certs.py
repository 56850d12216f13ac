"""``sojourn cluster certs``: what it makes, that two hosts trust each other by it, and what it refuses."""

from __future__ import annotations

import datetime
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from sojourn.cli import main

HOSTS = ("app1.example", "10.0.0.2", "fd00::3")


def certs(out: Path, *options: str) -> int:
    return main(["cluster", "certs", "--out", str(out), *options])


def hosts(*names: str) -> list[str]:
    return [word for name in names for word in ("--host", name)]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Certificates of three hosts: one of a name, one of each kind of address."""
    assert certs(tmp_path / "certs", *hosts(*HOSTS)) == 0
    return tmp_path / "certs"


def certificate(directory: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "host.pem").read_bytes())


def context(directory: Path, purpose: int) -> ssl.SSLContext:
    """What a host builds from its directory: it shows its certificate and verifies the other's."""
    found = ssl.SSLContext(purpose)
    found.verify_mode, found.minimum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3
    found.verify_flags |= ssl.VERIFY_X509_STRICT
    if (directory / "crl.pem").exists():
        found.load_verify_locations(directory / "crl.pem")
        found.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    found.load_verify_locations(directory / "ca.pem")
    found.load_cert_chain(directory / "host.pem", directory / "host.key")
    return found


def shaken(server: Path, client: Path, name: str) -> str:
    """Let *client* greet *server* as *name*, in memory; return the name that the server sees."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = context(server, ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
    two = context(client, ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server, server_hostname=name)
    waiting = [two, one]
    for _ in range(6):
        for side in waiting[:]:
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert waiting == []
    peer: Any = one.getpeercert()
    [(_, seen)] = peer["subjectAltName"]
    return str(seen)


# -- what it makes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTS)
def test_two_hosts_verify_each_other_both_ways(made: Path, name: str) -> None:
    assert shaken(made / name, made / "app1.example", name) == "app1.example"
    assert shaken(made / "app1.example", made / "10.0.0.2", "app1.example") == "10.0.0.2"


def test_a_certificate_of_another_authority_or_for_another_name_is_refused(made: Path, tmp_path: Path) -> None:
    assert certs(tmp_path / "theirs", *hosts("app1.example")) == 0
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate in certificate chain"):
        shaken(tmp_path / "theirs" / "app1.example", made / "app1.example", "app1.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shaken(made / "app1.example", made / "10.0.0.2", "app2.example")


def test_a_certificate_is_for_server_and_client_and_signs_nothing(made: Path) -> None:
    found = certificate(made / "app1.example")
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_files_are_the_users_own_and_no_host_gets_the_authority_s_key(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {"ca", *HOSTS}
    for directory in (made, *made.iterdir()):
        assert directory.stat().st_mode & 0o777 == 0o700
    for name in HOSTS:
        assert {path.name for path in (made / name).iterdir()} == {"ca.pem", "host.pem", "host.key"}
        assert {path.stat().st_mode & 0o777 for path in (made / name).iterdir()} == {0o600}
    assert (made / "ca" / "ca.key").stat().st_mode & 0o777 == 0o600


def test_it_says_where_they_are_and_that_the_authority_s_key_must_not_travel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs(tmp_path / "certs", *hosts(*HOSTS)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(str(tmp_path / "certs" / name) in out for name in HOSTS)
    assert f"{tmp_path / 'certs' / 'ca' / 'ca.key'} can make a certificate for any host: it must not travel" in out
    assert "PRIVATE" not in out


def test_a_certificate_lasts_as_long_as_it_was_asked_for(tmp_path: Path) -> None:
    assert certs(tmp_path / "certs", *hosts("app1.example"), "--days", "7") == 0
    left = certificate(tmp_path / "certs" / "app1.example").not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=6, hours=23) < left <= datetime.timedelta(days=7)


# -- later -----------------------------------------------------------------------------------------------------


def test_a_host_that_comes_later_is_trusted_by_those_before(made: Path) -> None:
    authority = (made / "ca" / "ca.pem").read_bytes()
    assert certs(made, *hosts("app4.example")) == 0
    assert (made / "ca" / "ca.pem").read_bytes() == authority
    assert shaken(made / "app4.example", made / "app1.example", "app4.example") == "app1.example"


def test_renewed_certificates_and_old_ones_trust_each_other_for_a_rolling_change(made: Path) -> None:
    old = certificate(made / "app1.example")
    assert certs(made, "--renew", *hosts("app1.example")) == 0
    new = certificate(made / "app1.example")
    assert new.serial_number != old.serial_number
    assert new.public_key() != old.public_key()
    assert shaken(made / "app1.example", made / "10.0.0.2", "app1.example") == "10.0.0.2"
    assert shaken(made / "10.0.0.2", made / "app1.example", "10.0.0.2") == "app1.example"
    [kept] = made.glob("app1.example_before_*")
    assert certificate(kept) == old


def test_without_a_host_all_are_renewed_and_every_old_one_is_kept(made: Path) -> None:
    for times in (1, 2):
        assert certs(made, "--renew") == 0
        assert len(list(made.glob("*_before_*"))) == times * len(HOSTS)
    assert {path.name for path in made.iterdir() if "_before_" not in path.name} == {"ca", *HOSTS}


def test_revoked_certificates_are_refused_and_the_host_may_be_given_a_new_one(made: Path) -> None:
    assert certs(made, "--renew", *hosts("app1.example")) == 0
    old = shutil.copytree(made / "app1.example", made.parent / "stolen")
    older = shutil.copytree(next(made.glob("app1.example_before_*")), made.parent / "stolen before")
    assert certs(made, "--revoke", *hosts("app1.example")) == 0
    assert not (made / "app1.example").exists()
    assert len(list(made.glob("app1.example*_revoked_*"))) == 2
    assert certs(made, *hosts("app1.example")) == 0
    shutil.copy(made / "ca" / "crl.pem", made / "10.0.0.2")
    for stolen in (old, older):
        with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
            shaken(made / "10.0.0.2", stolen, "10.0.0.2")
    assert shaken(made / "10.0.0.2", made / "app1.example", "10.0.0.2") == "app1.example"
    assert certs(made, "--revoke", *hosts("fd00::3")) == 0  # the list grows, and what was on it stays there
    shutil.copy(made / "ca" / "crl.pem", made / "10.0.0.2")
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shaken(made / "10.0.0.2", old, "10.0.0.2")


# -- what it refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "../app1",
        "a/b",
        "app1.example:7946",
        "[::1]",
        "10.0.0",
        "*.example",
        "ca",
        "app_1",
        "ä.example",
        "-a",
    ],
)
def test_what_is_no_host_is_refused_and_nothing_is_made(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs(tmp_path / "certs", *hosts("app1.example"), f"--host={host}") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "give a host name or an IP address" in err
    assert not (tmp_path / "certs").exists()


def test_nothing_is_overwritten(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*.*") if path.is_file()}
    assert certs(made, *hosts("app5.example", "APP1.example")) == 2
    assert "use --renew" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in made.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give each host"),
        ([*hosts("app1.example"), "--days", "0"], "days=0: give a number from 1 to 3650"),
        ([*hosts("app1.example", "app1.example")], "given twice"),
        (["--renew", *hosts("app1.example")], "leave --renew out"),
        (["--renew"], "nothing to renew"),
        (["--revoke"], "say whose certificates"),
        (["--revoke", *hosts("app1.example")], "nothing to revoke"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(
    tmp_path: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certs(tmp_path / "certs", *options) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not (tmp_path / "certs").exists()


def test_an_authority_whose_files_do_not_belong_together_signs_nothing(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (made / "ca" / "ca.key").write_bytes((made / "app1.example" / "host.key").read_bytes())
    assert certs(made, "--renew", *hosts("app1.example")) == 2
    assert "is not the key of" in capsys.readouterr().err
    assert certificate(made / "app1.example").subject  # the old one is back in its place
    assert list(made.glob("*_before_*")) == []


def test_a_place_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert certs(tmp_path / "file" / "certs", *hosts("app1.example")) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "cannot be made" in err
