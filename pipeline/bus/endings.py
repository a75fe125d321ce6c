"""Why a connection ended or did not come about: the typed error, with the likely cause and the setting to look at."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from schemas.errors import ConnectionLostError, SessionTakenOverError, TlsError

TAKEN_OVER_CODE: Final = 142
_HINTS: Final = {
    129: "the broker could not read a packet; is something on the way that changes them?",
    130: "the broker saw a packet that MQTT does not allow here",
    135: "check the broker's rules for this identity",
    137: "the broker has too much to do",
    138: "the broker does not let this client in",
    139: "the broker is stopping",
    141: "nothing was heard from this process within the keep alive",
    147: "more messages without an acknowledgement than the broker takes",
    149: "a packet was larger than the broker's max_packet_size",
    150: "too many messages a second for the broker",
    151: "a limit of the broker was reached, of connections or memory for example",
    152: "the broker's administrator ended it; after a change of rules it comes back by itself",
    156: "the broker names another server; set broker.host",
    157: "the broker has moved; set broker.host",
    159: "too many connections a second for the broker",
    160: "the broker allows no connection longer than this",
}
"""What reason codes of DISCONNECT and CONNACK (MQTT 5.0 section 2.4) mean for who reads the log."""
_FIX: Final = "Two sites or workers of one name? Give each its own (edge.site, worker.name)"


def told_by_broker(what: str, code: int, name: str, client_id: str) -> ConnectionLostError:
    """The error for a reason code that the broker gave.

    Args:
        what: what it did.
        code: MQTT 5 reason code.
        name: its name in the standard.
        client_id: MQTT client identifier of this connection.
    """
    if code == TAKEN_OVER_CODE:
        return SessionTakenOverError(
            f"another process uses the client id {client_id} ({name}, reason code {code}). {_FIX}",
            client_id=client_id,
            reason_code=code,
        )
    hint = f": {_HINTS[code]}" if code in _HINTS else ""
    return ConnectionLostError(f"{what}: {name} (reason code {code}){hint}", reason_code=code)


def perhaps_taken_over(client_id: str, times: int) -> SessionTakenOverError:
    """The error for connections that end in silence again and again.

    Args:
        client_id: MQTT client identifier of them.
        times: how many in a row.
    """
    return SessionTakenOverError(
        f"the broker closed {times} connections in a row without a reason, each soon after it was made: perhaps "
        f"another process uses the client id {client_id}, which Mosquitto 2.0.11 does not say. {_FIX}",
        client_id=client_id,
        reason_code=None,
    )


_OF_THE_BROKERS_CERTIFICATE: Final = {
    9: ("broker.tls", "the broker's certificate is not valid yet: is this machine's clock right?"),
    10: (
        "broker.tls",
        "the broker's certificate has expired: renew it (`latentbus broker renew-broker`), or this clock is wrong",
    ),
    62: ("broker.host", "the broker's certificate is for another name: use the name that it was made for"),
    64: ("broker.host", "the broker's certificate is for another address: use the name that it was made for"),
}
"""By OpenSSL's verification code; any other one is a matter of the authority."""
_OF_OUR_CERTIFICATE: Final = {
    "CERTIFICATE_EXPIRED": "this process' certificate has expired or is not valid yet: renew it "
    "(`latentbus broker renew-device`)",
    "CERTIFICATE_REVOKED": "this process' certificate was revoked: ask the operator for a new one",
    "UNKNOWN_CA": "the broker does not know the authority of this process' certificate: is it of this fleet?",
    "CERTIFICATE_REQUIRED": "the broker asks for a client certificate: set cert_file and key_file",
    "HANDSHAKE_FAILURE": "the broker accepts none of this process' TLS settings; perhaps it asks for a client "
    "certificate: set cert_file and key_file",
}
"""By the end of an alert's name."""
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})


def tls_failure(error: BaseException) -> TlsError | None:
    """The error for a TLS connection that failed; None where TLS has nothing to do with it.

    Args:
        error: what the socket raised, in the handshake or later: TLS 1.3 hears of a refused certificate afterwards.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        setting, problem = _OF_THE_BROKERS_CERTIFICATE.get(
            error.verify_code,
            (
                "broker.tls.ca_file",
                "the broker's certificate is not of the authority in this file: is it the ca.crt of this fleet?",
            ),
        )
        return TlsError(f"{setting}: {problem} (certificate verify failed: {error.verify_message})", setting=setting)
    if not isinstance(error, ssl.SSLError):
        # The handshake is the first that either side says: who hangs up then has not understood it.
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return _no_tls(error)
        return None
    reason = error.reason or ""
    _, _, alert = reason.rpartition("ALERT_")
    if alert in _OF_OUR_CERTIFICATE or "CERTIFICATE" in alert:
        setting = "broker.tls.cert_file"
        problem = _OF_OUR_CERTIFICATE.get(alert, "the broker refuses this process' certificate")
        return TlsError(f"{setting}: {problem} ({_words(error)})", setting=setting)
    if alert == "PROTOCOL_VERSION":
        return TlsError(f"broker.tls: the broker speaks no TLS 1.2 or later ({_words(error)})", setting="broker.tls")
    if isinstance(error, ssl.SSLEOFError) or reason in _NO_TLS:
        return _no_tls(error)
    return TlsError(f"broker.tls: {_words(error)}", setting="broker.tls")


def unreachable(error: BaseException) -> str:
    """Why no connection can be made, with the setting to look at.

    Args:
        error: what the socket raised.
    """
    if isinstance(error, ConnectionRefusedError):
        return (
            f"nothing listens there ({_words(error)}): check broker.host and broker.port; `latentbus broker run` "
            "starts a broker"
        )
    if isinstance(error, socket.gaierror):
        return f"no such host ({_words(error)}): check broker.host"
    return str(error)


def plain_client_refused(problem: str) -> TlsError:
    """The error for a plain connection that the peer closed before it said a word.

    Args:
        problem: what the socket said.
    """
    return TlsError(
        "broker.tls: the broker closed the connection before the CONNACK. Is this its TLS port? Then set ca_file, "
        f"cert_file and key_file, or use its plain port; or it takes no more connections ({problem})",
        setting="broker.tls",
    )


def tls_client_refused(problem: str) -> TlsError:
    """The error for a connection that the peer closed between the TLS handshake and its first word, with no alert.

    Args:
        problem: what the socket said.
    """
    return TlsError(
        "broker.tls.cert_file: the broker closed the connection after the TLS handshake. Does it take this process' "
        f"certificate (none, expired, revoked, of another authority)? Or it takes no more connections ({problem})",
        setting="broker.tls.cert_file",
    )


def _no_tls(error: OSError) -> TlsError:
    return TlsError(
        "broker.tls: the peer does not answer in TLS. Is this its plain port? Then set broker.port to its TLS port, or "
        f"leave broker.tls out; or it takes no more connections ({_words(error)})",
        setting="broker.tls",
    )


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return error.strerror or str(error)
