"""The credentials in the environment, the header that carries them, and how Prefect gets them."""

import base64
import contextlib
import functools
import json
import os
import re
import ssl
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr

from flows import settings, versions
from flows.settings import CannotRun, Refused

CLOUD = "https://api.prefect.cloud/"
KEY, AUTH_STRING, HEADERS = "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS"
# One certificate, named for http, which needs none: Prefect reads them for each new client, and a task makes several.
# With certifi's 140 that takes 20 ms each time. (Prefect 3.9.1)
UNUSED = Path(__file__).with_name("unused.pem")
_ADDED = "FLOWS_ADDED_AUTHORIZATION"  # set if `use`, not the user, wrote the header into the custom headers
_FORMER = "FLOWS_FORMER_SSL_CERT_FILE"  # set if `use` wrote SSL_CERT_FILE: what the user had there, if anything


class Sent(NamedTuple):
    """The credentials that Prefect's client sends: the name of their variable, and their secret."""

    variable: str
    secret: SecretStr


def sent() -> Sent | None:
    """Return the credentials that Prefect's client would send, or None for an open server.

    As in Prefect's own client, an Authorization in PREFECT_CLIENT_CUSTOM_HEADERS wins over Basic
    (PREFECT_API_AUTH_STRING), and Basic over Bearer (PREFECT_API_KEY).
    """
    known = settings.read()
    own = None if os.environ.get(_ADDED) else _custom(known).get("Authorization")
    if own is not None:
        return Sent(HEADERS, SecretStr(own))
    if known.prefect_api_auth_string is not None:
        return Sent(AUTH_STRING, known.prefect_api_auth_string)
    return Sent(KEY, known.prefect_api_key) if known.prefect_api_key is not None else None


def scheme() -> str:
    """Return the scheme that Prefect's client would send, in lower case: "basic", "bearer" or another; or "none"."""
    credentials = sent()
    if credentials is None or (credentials.variable == HEADERS and flaw(credentials)):
        return "none"  # the first word of a header that is not valid may be the secret itself
    of_header = credentials.secret.get_secret_value().split(" ")[0].lower()
    return {AUTH_STRING: "basic", KEY: "bearer"}.get(credentials.variable, of_header)


def header() -> dict[str, str]:
    """Return the `Authorization` header that Prefect's client would send, or {}. Raises Refused if it has a `flaw`."""
    credentials = sent()
    if credentials is None:
        return {}
    if wrong := flaw(credentials):
        raise Refused(wrong)
    secret = credentials.secret.get_secret_value()
    if credentials.variable == AUTH_STRING:
        secret = "Basic " + base64.b64encode(secret.encode()).decode()
    elif credentials.variable == KEY:
        secret = "Bearer " + secret
    return {"Authorization": secret}


def flaw(credentials: Sent) -> str | None:
    """Return what is wrong with the form of `credentials`, and how to correct it; None if nothing is."""
    name, secret = credentials
    value = secret.get_secret_value()
    subject = f"{'The Authorization in ' if name == HEADERS else ''}{name}, from {settings.origin(name)},"
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        return f"{subject} contains a line break or stray space, probably from pasting. Set it again without that."
    if not value.isascii():
        return f"{subject} contains characters beyond ASCII, which servers do not accept. Copy it again."
    if name == HEADERS:
        # A word that is not a scheme may be the secret itself, and schemes are shown.
        wrong = f"{subject} is not a scheme, one space and a secret. Write `Bearer KEY`, or unset the variable."
        return None if re.fullmatch(r"[A-Za-z-]{1,20} \S.*", value) else wrong
    if value[0] in "'\"`" or value[-1] in "'\"`":
        return f"{subject} has quotes around it that are part of its value. Set it without them."
    if value.lower().startswith(("bearer ", "basic ")):
        return f"{subject} begins with the word {value.split()[0]!r}, which Prefect adds itself. Set only the rest."
    if name == AUTH_STRING and not re.fullmatch("[^:]+:.+", value):
        return f"{subject} is incomplete ({masked(secret)}). Set it to user:password, with both parts."
    if name == KEY and " " in value:
        return f"{subject} contains a space ({masked(secret)}), but keys have none. Copy the key again."
    return None


def masked(secret: SecretStr) -> str:
    """Return as much of `secret` as may be shown to tell it from another one: never more than a third of it."""
    value = secret.get_secret_value()
    return value[: min(4, len(value) // 3)] + "…"


def trust() -> ssl.SSLContext | bool:
    """Return httpx's `verify`: which certificates are trusted, as in Prefect's client. An http address needs none.

    Those in PREFECT_API_SSL_CERT_FILE, or in SSL_CERT_FILE, if one is set; all if PREFECT_API_TLS_INSECURE_SKIP_VERIFY
    is true. Raises CannotRun if that file has none.
    """
    known = settings.read()
    if known.prefect_api_tls_insecure_skip_verify or (known.prefect_api_url or "").startswith("http:"):
        return False
    named = named_certificate(known)
    name = "PREFECT_API_SSL_CERT_FILE" if named else "SSL_CERT_FILE"
    file = named or os.environ.get("SSL_CERT_FILE")
    if wrong := _unreadable(file):
        next_step = f"Set {name} to a file with PEM certificates, or unset it."
        raise CannotRun(f"{name} is {file}, which contains no certificate ({wrong}). {next_step}")
    return ssl.create_default_context(cafile=file) if file else True


def named_certificate(known: settings.Settings) -> Path | None:
    """Return PREFECT_API_SSL_CERT_FILE, as the user has set it."""
    return None if known.prefect_api_ssl_cert_file == UNUSED else known.prefect_api_ssl_cert_file


@functools.cache  # it takes 15 ms, and is asked before each request
def _unreadable(certificates: Path | str | None) -> str | None:
    """Return why the file of `certificates` cannot be used; None if it can, or is not set."""
    try:
        ssl.create_default_context(cafile=certificates) if certificates else None
    except OSError as error:
        return error.strerror or str(error)
    return None


def use(
    url: str, key: SecretStr | None = None, auth_string: SecretStr | None = None, certificate: Path | str | None = None
) -> None:
    """Make this process, its children, and Prefect if it is imported use the server at `url` with these credentials."""
    custom = _custom(settings.read())
    if os.environ.pop(_ADDED, None):
        custom.pop("Authorization", None)
    # Prefect's client does not send PREFECT_API_KEY when it opens the WebSocket that carries the states of task runs:
    # behind a gateway that checks keys, the flow would complete without a record of any of them.
    if key is not None and auth_string is None and not url.startswith(CLOUD) and "Authorization" not in custom:
        custom["Authorization"] = f"Bearer {key.get_secret_value()}"
        os.environ[_ADDED] = "1"
    trusted = os.environ.pop(_FORMER, os.environ.get("SSL_CERT_FILE", ""))
    if url.startswith("http:"):  # clients read these all the same, and stop if they cannot
        trusted = "" if _unreadable(trusted) else trusted
        certificate = None if _unreadable(certificate) else certificate
    if certificate and not versions.is_3(versions.here()):  # Prefect 2 has no variable of its own for it
        os.environ[_FORMER], trusted = trusted, str(certificate)
    values = {
        "SSL_CERT_FILE": trusted,
        "PREFECT_API_URL": url,
        KEY: key.get_secret_value() if key else "",
        AUTH_STRING: auth_string.get_secret_value() if auth_string else "",
        "PREFECT_API_SSL_CERT_FILE": str(certificate or (UNUSED if url.startswith("http:") else "")),
        HEADERS: json.dumps(custom) if custom else "",
    }
    for name, value in values.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    _refresh_prefect("prefect.context" in sys.modules, *sorted(os.environ.items()))


@functools.lru_cache(maxsize=1)  # it takes 20 ms, and is asked before each request
def _refresh_prefect(*_: object) -> None:
    """Let Prefect, if it is imported, read its settings again, which it does only once."""
    context: Any = sys.modules.get("prefect.context")
    try:
        if hasattr(context, "refresh_global_settings_context"):
            context.refresh_global_settings_context()
        elif context:  # Prefect 2
            context.GLOBAL_SETTINGS_CONTEXT = context.root_settings_context()
    except ValueError as error:
        raise settings.unreadable(error) from None


def _custom(known: settings.Settings) -> dict[str, str]:
    """Return PREFECT_CLIENT_CUSTOM_HEADERS, with the name of Authorization in this spelling."""
    written = known.prefect_client_custom_headers
    with contextlib.suppress(ValueError):
        custom = json.loads(written.get_secret_value() if written else "{}")
        if isinstance(custom, dict) and all(isinstance(value, str) for value in custom.values()):
            return {"Authorization" if name.lower() == "authorization" else name: custom[name] for name in custom}
    raise CannotRun(f"{HEADERS} is not a JSON object of names and texts. Correct it, or unset it.")
