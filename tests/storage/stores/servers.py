"""Object stores on this machine: moto for S3, Azurite for Azure; each a server program with a real HTTP interface.

Both keep everything in memory, listen on the loopback, and have one bucket or container, `lake`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import NoReturn

import pytest

from stores.places import Place

NO_MOTO = "no S3 server to test with; install one with: uv pip install 'moto[server]'"
NO_AZURITE = (
    "no Azure server to test with; install one with: npm install --prefix FOLDER azurite@3.37.0, "
    "and set V6KIT_AZURITE=FOLDER"
)
# The first one that lists from `startFrom` on, without which deltalake 1.6 takes old log entries for new ones.
# Source: Azure/Azurite#2688, and apache/arrow-rs-object-store#623.
OLDEST_AZURITE = (3, 37)
ACCOUNT = "v6kit"


def missing(what: str) -> NoReturn:
    """Skip, or fail where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def s3() -> Iterator[Place]:
    """Run an S3 server with an empty bucket."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which("moto_server", path=here) or missing(NO_MOTO)
    secret, port = secrets.token_hex(20), _free_port()
    with _running([program, "-H", "127.0.0.1", "-p", str(port)], until="Running on"):
        address = f"http://127.0.0.1:{port}"
        _put(f"{address}/lake", {})
        options = {
            "aws_endpoint_url": address,
            "aws_allow_http": "true",
            "aws_region": "us-east-1",
            "aws_access_key_id": "v6kit",
            "aws_secret_access_key": secret,
        }
        yield Place("s3", "s3://lake", options, secret, port)


@contextmanager
def azure() -> Iterator[Place]:
    """Run an Azure blob server with an empty container."""
    folder = Path(os.environ.get("V6KIT_AZURITE", "")) / "node_modules" / ".bin"
    program = shutil.which("azurite-blob", path=f"{folder}{os.pathsep}{os.environ['PATH']}") or missing(NO_AZURITE)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_AZURITE:
        missing(f"{NO_AZURITE}; {version} is too old")
    secret, port = base64.b64encode(secrets.token_bytes(64)).decode(), _free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    quiet = ["--silent", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    account = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{secret}"}  # not on the command line, which everybody can read
    with _running([program, *where, *quiet], until="successfully listen", env=account):
        address = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _put(f"{address}/lake?restype=container", _signature("lake", secret))
        options = {
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": secret,
            "azure_endpoint": address,
            "azure_allow_http": "true",
        }
        yield Place("azure", "az://lake", options, secret, port)


@contextmanager
def _running(command: list[str], *, until: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server; it has said that it is there when this begins, and it is gone afterwards."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}
    ) as server:
        try:
            assert server.stdout is not None
            said = []
            while not said or until not in said[-1]:
                said.append(server.stdout.readline())
                assert said[-1], f"{command[0]} ended: {''.join(said)}"
            # It may log every request; a pipe that nobody empties would stop it after a few hundred.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            yield
        finally:
            server.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _put(address: str, headers: Mapping[str, str]) -> None:
    request = urllib.request.Request(address, method="PUT", headers=dict(headers))  # noqa: S310 - our own server
    with urllib.request.urlopen(request):  # noqa: S310
        pass


def _signature(container: str, key: str) -> dict[str, str]:
    """Return the headers that make a container. Source: Azure, "Authorize with Shared Key"."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    said = "\n".join(f"{name}:{value}" for name, value in headers.items())
    text = f"PUT{12 * chr(10)}{said}\n/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    signed = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return {**headers, "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signed).decode()}"}
