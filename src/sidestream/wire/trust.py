"""Whom an upstream's certificate may come from. It is always verified, and its host name too."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def trusting(bundle: Path) -> ssl.SSLContext:
    """A context that trusts the certificates of a PEM file, and nobody else.

    `ValueError` says what is wrong with the file.
    """
    try:
        context = ssl.create_default_context(cafile=bundle)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except ssl.SSLError:
        raise ValueError("expected a file of certificates in PEM, '-----BEGIN CERTIFICATE-----'") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
