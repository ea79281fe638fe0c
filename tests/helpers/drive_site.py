"""Google Drive on this machine: a proxy on loopback that leads every address to a server with a certificate in Drive's
name, so that gdown's own way to Drive is walked."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HAS_OPENSSL = shutil.which("openssl") is not None


class Drive(BaseHTTPRequestHandler):
    """Answers every question with the same."""

    def __init__(self, body: bytes, headers: dict[str, str], *args: Any) -> None:
        self.body, self.headers_sent = body, headers
        super().__init__(*args)

    def do_GET(self) -> None:
        self.send_response(200)
        for key, value in {**self.headers_sent, "Content-Length": str(len(self.body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


class Proxy(BaseHTTPRequestHandler):
    """Leads every CONNECT to `goal`."""

    def __init__(self, goal: tuple[str, int], *args: Any) -> None:
        self.goal = goal
        super().__init__(*args)

    def do_CONNECT(self) -> None:
        with socket.create_connection(self.goal) as beyond:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pump, args=(beyond, self.connection))
            back.start()
            pump(self.connection, beyond)
            with contextlib.suppress(OSError):
                beyond.shutdown(socket.SHUT_RDWR)
            back.join()

    def log_message(self, *_: Any) -> None:
        pass


def pump(source: socket.socket, target: socket.socket) -> None:
    """Passes bytes on until one side ends."""
    with contextlib.suppress(OSError):
        while block := source.recv(2**16):
            target.sendall(block)


@contextlib.contextmanager
def drive(folder: Path, body: bytes, headers: dict[str, str]) -> Iterator[dict[str, str]]:
    """Serves -> the environment variables that lead there."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=drive.google.com",
    ]
    files = ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=DNS:drive.google.com"]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site = ThreadingHTTPServer(("127.0.0.1", 0), partial(Drive, body, headers))
    site.socket = context.wrap_socket(site.socket, server_side=True)
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), partial(Proxy, ("127.0.0.1", site.server_port)))
    threads = [threading.Thread(target=server.serve_forever) for server in (site, proxy)]
    for thread in threads:
        thread.start()
    address = f"http://127.0.0.1:{proxy.server_port}"
    try:
        yield {"HTTPS_PROXY": address, "https_proxy": address, "REQUESTS_CA_BUNDLE": str(certificate)}
    finally:
        for server, thread in zip((site, proxy), threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
