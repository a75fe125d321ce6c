"""When a certificate ends, read from its file without a library: an edge has none that could.

Only the validity of a PEM certificate is looked for (RFC 5280 section 4.1), nothing is verified.
"""

from __future__ import annotations

import binascii
import re
import ssl
from datetime import UTC, datetime
from typing import Final

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0xA0, 0x17, 0x18


def ends_s(pem: str) -> float:
    """When the first certificate to end in a file of PEM ends, in seconds since 1970.

    Raises:
        ValueError: there is no certificate, or one cannot be read.
    """
    found = _PEM.findall(pem)
    if not found:
        raise ValueError("no certificate in PEM")
    try:
        return min(_ends_s(ssl.PEM_cert_to_DER_cert(one)) for one in found)
    except (IndexError, binascii.Error) as error:
        raise ValueError(f"a certificate cannot be read: {error}") from None


def _ends_s(der: bytes) -> float:
    certificate = _contents(der, 0, _SEQUENCE)[0]
    fields = _contents(certificate, 0, _SEQUENCE)[0]
    offset = 0
    if fields[0] == _VERSION:
        _, offset = _contents(fields, offset)
    for _serial_algorithm_issuer in range(3):
        _, offset = _contents(fields, offset)
    validity = _contents(fields, offset, _SEQUENCE)[0]
    _, offset = _contents(validity, 0)
    end, _ = _contents(validity, offset)
    text = end.decode("ascii")
    if validity[offset] == _GENERALIZED_TIME:
        shape = "%Y%m%d%H%M%SZ"
    elif validity[offset] == _UTC_TIME:
        # Two digits of a year: 1950 to 2049.
        text = ("19" if text[:2] >= "50" else "20") + text
        shape = "%Y%m%d%H%M%SZ"
    else:
        raise ValueError("its end is no time")
    return datetime.strptime(text, shape).replace(tzinfo=UTC).timestamp()


def _contents(data: bytes, offset: int, tag: int | None = None) -> tuple[bytes, int]:
    """Contents of the DER value at an offset, and where the next one begins."""
    if tag is not None and data[offset] != tag:
        raise ValueError("it is not built as a certificate is")
    length, start = data[offset + 1], offset + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise ValueError("it is cut short")
    return data[start : start + length], start + length
