"""Which credentials the environment holds, and the header that carries them to the server."""

import base64
import ssl

from flows import settings


def header() -> dict[str, str]:
    """The `Authorization` header that the Prefect client would send too, or nothing for an open server.

    Basic (PREFECT_API_AUTH_STRING) wins over Bearer (PREFECT_API_KEY), as it does in Prefect's own client.
    """
    known = settings.read()
    if known.prefect_api_auth_string is not None:
        pair = known.prefect_api_auth_string.get_secret_value()
        return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    if known.prefect_api_key is not None:
        return {"Authorization": "Bearer " + known.prefect_api_key.get_secret_value()}
    return {}


def trust() -> ssl.SSLContext | bool:
    """What httpx's `verify` is to be: whose certificates are trusted."""
    return True
