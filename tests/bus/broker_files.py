"""Files that brokers of the tests need: certificates, passwords, dynamic-security roles."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PASSWORD = "correct horse"
_PLUGIN = "mosquitto_dynamic_security.so"
_PLUGIN_FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib")


def dynamic_security_plugin() -> Path | None:
    """The plug-in that comes with Mosquitto, if it is installed."""
    folders = [Path(folder) for folder in _PLUGIN_FOLDERS]
    return next((found for folder in folders for found in (*folder.glob(_PLUGIN), *folder.glob(f"*/{_PLUGIN}"))), None)


def dynamic_security_file(path: Path, acls: Mapping[str, Sequence[tuple[str, str]]]) -> Path:
    """A role for each client with the ``(acltype, topic)`` pairs that it is allowed; all else is denied."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 101)
    path.write_text(
        json.dumps(
            {
                "defaultACLAccess": {
                    "publishClientSend": False,
                    "publishClientReceive": True,
                    "subscribe": False,
                    "unsubscribe": True,
                },
                "clients": [
                    {
                        "username": name,
                        "password": base64.b64encode(digest).decode(),
                        "salt": base64.b64encode(salt).decode(),
                        "iterations": 101,
                        "roles": [{"rolename": name}],
                    }
                    for name in acls
                ],
                "roles": [
                    {
                        "rolename": name,
                        "acls": [
                            {"acltype": kind, "topic": topic, "priority": 0, "allow": True} for kind, topic in allowed
                        ],
                    }
                    for name, allowed in acls.items()
                ],
            }
        ),
        encoding="utf-8",
    )
    return path


def certificates(folder: Path, *names: str) -> None:
    """A certificate authority ``ca.crt``, and ``NAME.crt`` and ``NAME.key`` for each name; for 127.0.0.1."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    folder.mkdir(parents=True, exist_ok=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test authority")
    (folder / "names.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in names:
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", f"{name}.crt", "-days", "2", "-extfile", "names.ext"),
        )


def password_file(path: Path, username: str) -> Path:
    """A Mosquitto password file with one user, whose password is :data:`PASSWORD`."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 101)
    fields = ["", "7", "101", base64.b64encode(salt).decode(), base64.b64encode(digest).decode()]
    path.write_text(f"{username}:{'$'.join(fields)}\n")
    path.chmod(0o600)
    return path
