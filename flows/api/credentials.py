"""Which credentials the environment holds, the header that carries them, and how Prefect is told of them."""

import base64
import json
import os
import re
import ssl
import sys
from typing import Any

from pydantic import SecretStr

from flows import settings, versions
from flows.settings import CannotRun, Refused

CLOUD = "https://api.prefect.cloud/"
_ADDED = "FLOWS_ADDED_AUTHORIZATION"  # set where `use`, not the user, wrote the header into the custom headers
_FORMER = "FLOWS_FORMER_SSL_CERT_FILE"  # set where `use` wrote SSL_CERT_FILE: what the user had there, if anything


def scheme() -> str:
    """What the Prefect client would send: "none", "basic" or "bearer"."""
    return header().get("Authorization", "none").split()[0].lower()


def header() -> dict[str, str]:
    """The `Authorization` header that the Prefect client would send, or nothing for an open server.

    As in Prefect's own client, PREFECT_CLIENT_CUSTOM_HEADERS wins over Basic (PREFECT_API_AUTH_STRING), and Basic over
    Bearer (PREFECT_API_KEY). Raises Refused for credentials that no server can accept.
    """
    wrong = flaw()
    if wrong:
        raise Refused(wrong)
    known, own = settings.read(), own_header()
    if own is not None:
        return {"Authorization": own}
    if known.prefect_api_auth_string is not None:
        pair = known.prefect_api_auth_string.get_secret_value()
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    if known.prefect_api_key is not None:
        return {"Authorization": "Bearer " + known.prefect_api_key.get_secret_value()}
    return {}


def own_header() -> str | None:
    """The `Authorization` header that the user, not the kit, wrote into PREFECT_CLIENT_CUSTOM_HEADERS, if any."""
    return None if os.environ.get(_ADDED) else _custom().get("Authorization")


def trust() -> ssl.SSLContext | bool:
    """What httpx's `verify` is to be: whose certificates are trusted, as Prefect's client does it.

    That is PREFECT_API_SSL_CERT_FILE where it is set, and nobody's where PREFECT_API_TLS_INSECURE_SKIP_VERIFY is true.
    """
    known = settings.read()
    if known.prefect_api_tls_insecure_skip_verify:
        return False
    if known.prefect_api_ssl_cert_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=known.prefect_api_ssl_cert_file.expanduser())
    except OSError as error:
        raise CannotRun(
            f"PREFECT_API_SSL_CERT_FILE is {known.prefect_api_ssl_cert_file}, which holds no certificate"
            f" ({error.strerror or error}). Name a file with PEM certificates."
        ) from None


def flaw() -> str | None:
    """What is wrong with the credentials as they are written, and how to put it right; None if nothing is."""
    own = own_header()
    if own is not None:
        return _flaw_of_own(own)  # the others are not sent
    known = settings.read()
    for name, secret in (
        ("PREFECT_API_AUTH_STRING", known.prefect_api_auth_string),
        ("PREFECT_API_KEY", known.prefect_api_key),
    ):
        if secret is None:
            continue
        value, where = secret.get_secret_value(), f"{name}, from {settings.origin(name)},"
        basic = name == "PREFECT_API_AUTH_STRING"
        if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
            return f"{where} has a line break or space around it or in it, as pasting leaves one. Set it without."
        if value[0] in "'\"`" or value[-1] in "'\"`":
            return f"{where} has quotes around it that are part of its value. Set it without them."
        if not value.isascii():
            return f"{where} has characters beyond ASCII, to which Prefect's server answers 500. Choose others."
        if value.lower().startswith(("bearer ", "basic ")):
            return f"{where} begins with the word {value.split()[0]!r}. Prefect adds that itself: set the rest alone."
        if basic and not re.fullmatch("[^:]+:.+", value):
            return f"{where} is half set ({masked(secret)}): it is user:password, with both parts."
        if not basic and " " in value:
            return f"{where} has a space in it ({masked(secret)}), which no key has. Copy the key again."
        return None  # the other kind is not sent
    return None


def _flaw_of_own(value: str) -> str | None:
    name = "PREFECT_CLIENT_CUSTOM_HEADERS"
    where = f"The Authorization in {name}, from {settings.origin(name)},"
    if value != value.strip() or re.search(r"[\x00-\x1f\x7f]", value):
        return f"{where} has a line break or space around it or in it, as pasting leaves one. Set it without."
    if not value.isascii():
        return f"{where} has characters beyond ASCII, which no header can carry. Copy the key again."
    # What is no scheme may be the secret itself, and schemes are shown.
    if not re.fullmatch(r"[A-Za-z-]{1,20} \S.*", value):
        return f"{where} is not a scheme, one space and a secret. Write `Bearer KEY`, or unset the variable."
    return None


def masked(secret: SecretStr) -> str:
    """As much of `secret` as may be shown, to tell it from another one: never more than a third of it."""
    value = secret.get_secret_value()
    return value[: min(4, len(value) // 3)] + "…"


def use(
    url: str, key: SecretStr | None = None, auth_string: SecretStr | None = None, certificate: object = None
) -> None:
    """Make this process, its children, and Prefect where it is imported, use the server at `url`, and as whom.

    For a bearer key that is not for Prefect Cloud, this sets PREFECT_CLIENT_CUSTOM_HEADERS too. Prefect's client sends
    PREFECT_API_KEY with its requests and not when it opens the WebSocket that carries the states of task runs: behind
    a gateway that checks keys the flow would complete, and none of its task runs be recorded.
    """
    custom = _custom()
    if os.environ.pop(_ADDED, None):
        custom.pop("Authorization", None)
    if key is not None and auth_string is None and not url.startswith(CLOUD) and "Authorization" not in custom:
        custom["Authorization"] = f"Bearer {key.get_secret_value()}"
        os.environ[_ADDED] = "1"
    trusted = os.environ.pop(_FORMER, os.environ.get("SSL_CERT_FILE", ""))
    if certificate and versions.certificate_variable() == "SSL_CERT_FILE":
        os.environ[_FORMER], trusted = trusted, str(certificate)
    for name, value in {
        "SSL_CERT_FILE": trusted or None,
        "PREFECT_API_URL": url,
        "PREFECT_API_KEY": key.get_secret_value() if key else None,
        "PREFECT_API_AUTH_STRING": auth_string.get_secret_value() if auth_string else None,
        "PREFECT_API_SSL_CERT_FILE": str(certificate) if certificate else None,
        "PREFECT_CLIENT_CUSTOM_HEADERS": json.dumps(custom) if custom else None,
    }.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    context: Any = sys.modules.get("prefect.context")
    if context is not None:
        # Prefect reads the environment when it is imported, and not again.
        try:
            context.GLOBAL_SETTINGS_CONTEXT = context.root_settings_context()
        except ValueError as error:
            raise settings.unreadable(error) from None


def _custom() -> dict[str, str]:
    """PREFECT_CLIENT_CUSTOM_HEADERS, with the name Authorization spelt so."""
    written = settings.read().prefect_client_custom_headers
    try:
        custom = json.loads(written.get_secret_value() if written else "{}")
        if isinstance(custom, dict) and all(isinstance(value, str) for value in custom.values()):
            return {"Authorization" if name.lower() == "authorization" else name: custom[name] for name in custom}
    except ValueError:
        pass
    raise CannotRun("PREFECT_CLIENT_CUSTOM_HEADERS is no JSON object of names and texts. Correct it, or unset it.")
