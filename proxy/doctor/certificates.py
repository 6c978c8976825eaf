"""What a server's certificates say (RFC 5280)."""

import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

# The format of `_ssl.Certificate.public_bytes`.
_DER = 2
_MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class Certificate:
    """`names`: the hosts and addresses that it is for."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    ends: datetime

    @classmethod
    def parse(cls, der: bytes) -> "Certificate":
        """Raises ValueError."""
        read = x509.load_der_x509_certificate(der)
        names = tuple(_names(read))[:_MAX_NAMES]
        return cls(read.subject.rfc4514_string(), read.issuer.rfc4514_string(), names, read.not_valid_after_utc)

    def __str__(self) -> str:
        left = (self.ends - datetime.now(UTC)).days
        validity = "expired" if left < 0 else f"{left} day{'' if left == 1 else 's'} left"
        return f"{self.subject}, issued by {self.issuer}, until {self.ends:%Y-%m-%d} ({validity})"


def shown_by(tls: ssl.SSLObject) -> list[Certificate]:
    """What the server sent in the handshake, its own certificate first; what can't be read is left out."""
    # `SSLObject.get_unverified_chain` of Python 3.13; the object below it has had it since 3.10.
    sent = tls._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]  # noqa: SLF001 - as said
    certificates = []
    for one in sent:
        with suppress(ValueError):
            certificates.append(Certificate.parse(one.public_bytes(_DER)))
    return certificates


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))
