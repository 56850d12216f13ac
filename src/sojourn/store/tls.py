"""What verifies the server of a store URL, by the files that its settings ``ca``, ``cert`` and ``key`` name."""

from __future__ import annotations

import ssl

from sojourn.errors import ConfigurationError


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
