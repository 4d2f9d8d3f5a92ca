"""The files from which the documents quote what was measured."""

import json
from typing import Any

from flows import settings


def store(name: str, figures: dict[str, Any]) -> None:
    """Write what a test has measured to `docs/figures/{name}.json`."""
    (settings.PROJECT / "docs" / "figures" / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
