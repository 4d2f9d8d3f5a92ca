"""The keys that a request's body may have at each endpoint, in both versions of Prefect.

The server ignores unknown keys at the first level, so that a typo in a filter selects everything; deeper it does not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.settings import CannotRun

# By the end of the endpoint's path.
KEYS: dict[str, list[str]] = json.loads(Path(__file__).with_suffix(".json").read_text())


def check(path: str, body: Mapping[str, Any]) -> None:
    """Raise CannotRun for a key in `body` that the endpoint at `path` does not know; pass endpoints not in KEYS."""
    known = next((set(keys) for ending, keys in KEYS.items() if f"/{path}".endswith(f"/{ending}")), set(body))
    if unknown := sorted(set(body) - known):
        ignored = f"{path} does not know the key {unknown[0]!r}, and the server would silently ignore it."
        raise CannotRun(f"{ignored} Choose from: {', '.join(sorted(known))}.")
