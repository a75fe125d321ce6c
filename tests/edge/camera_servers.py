"""Cameras on loopback, as small servers: HTTP video, MJPEG, snapshots, and sockets that misbehave."""

from __future__ import annotations

import base64
import datetime
import io
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from numpy.typing import NDArray
from PIL import Image

USER, PASSWORD = "admin", "hunter2"


class Camera:
    """An HTTP server whose answers a test scripts.

    Attributes:
        pictures: JPEG files that requests for ``/now.jpg`` and parts of ``/stream`` get, the last one again and again.
        files: bodies by path.
        statuses: refusals by path.
        requests: paths as they were asked for.
        gate: parts of ``/stream`` are sent while it is set.
    """

    def __init__(self) -> None:
        self.pictures: list[bytes] = []
        self.files: dict[str, bytes] = {}
        self.statuses: dict[str, int] = {}
        self.requests: list[str] = []
        self.protected = False
        self.gate = threading.Event()
        self.gate.set()
        self.ended = threading.Event()
        self.port = 0
        self.scheme = "http"

    def url(self, path: str, *, credentials: str = "") -> str:
        return f"{self.scheme}://{credentials}127.0.0.1:{self.port}{path}"

    def next_picture(self) -> bytes:
        return self.pictures.pop(0) if len(self.pictures) > 1 else self.pictures[0]


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def self_signed(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 in one file, as cameras make them for themselves."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "camera.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def camera_server(certificate: Path | None = None) -> Iterator[Camera]:
    camera = Camera()
    expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            camera.requests.append(self.path)
            if self.path in camera.statuses:
                self._send(camera.statuses[self.path], b"no")
            elif camera.protected and self.headers.get("Authorization") != expected:
                self._send(401, b"who?", ("WWW-Authenticate", 'Basic realm="camera"'))
            elif self.path == "/now.jpg":
                self._send(200, camera.next_picture())
            elif self.path == "/stream":
                self._stream()
            elif self.path in camera.files:
                self._send(200, camera.files[self.path])
            else:
                self._send(404, b"no")

        def _send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            while not camera.ended.wait(0.02):
                while not camera.gate.wait(0.02):
                    if camera.ended.is_set():
                        return
                part = camera.next_picture()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n".encode()
                try:
                    self.wfile.write(head + part + b"\r\n")
                except OSError:
                    return

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        camera.scheme = "https"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    camera.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield camera
    finally:
        camera.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def socket_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port; ``serve`` has each connection, one after the other, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        serve(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def rtsp_refusal(status: str) -> Callable[[socket.socket], None]:
    """An RTSP server that refuses everything."""

    def serve(connection: socket.socket) -> None:
        while data := connection.recv(4096):
            sequence = next(line for line in data.decode().split("\r\n") if line.lower().startswith("cseq"))
            challenge = 'WWW-Authenticate: Basic realm="camera"'
            connection.sendall(f"RTSP/1.0 {status}\r\n{sequence}\r\n{challenge}\r\n\r\n".encode())

    return serve


def silent(connection: socket.socket) -> None:
    """Takes a request and never answers; returns when the other side gives up."""
    while connection.recv(4096):
        pass
