"""The figures in docs/figures, which documents quote: read, and written by the tests that measure them."""

import json
from collections.abc import Callable
from typing import Any

from flows import settings

FOLDER = settings.PROJECT / "docs" / "figures"
Rows = list[dict[str, Any]]
Store = Callable[[str, Rows], object]


def stored(name: str) -> Rows:
    """Return the rows of the file `name`."""
    return json.loads((FOLDER / f"{name}.json").read_text())["rows"]


def show(name: str, rows: Rows) -> str:
    """Print `rows` as they are in the file `name`, and return that text."""
    text = '{"rows": [\n ' + ",\n ".join(json.dumps(row) for row in rows) + "\n]}\n"
    print(f"\n{name}: {text}", end="")
    return text


def store(name: str, rows: Rows) -> None:
    """Print `rows`, and write them to the file `name`."""
    (FOLDER / f"{name}.json").write_text(show(name, rows))
