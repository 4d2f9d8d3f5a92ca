"""The learner's own copy of the lessons: without outputs, so that it gives no result away before you have guessed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from flows import files, settings

ORIGINALS = settings.PROJECT / "notebooks"
FOLDER = settings.PROJECT / "my_lessons"  # beside the originals, so that links to ../docs lead somewhere


def names() -> list[str]:
    """Return the names of the lessons, in their order."""
    return sorted(path.stem for path in ORIGINALS.glob("*.ipynb"))


def make(folder: Path = FOLDER, again: Collection[str] = ()) -> list[str]:
    """Make a copy of each lesson in `folder` that has none there, and return a sentence for each one that changed.

    A copy that nobody has worked in follows its original. Any other is left alone, unless its name is in `again`:
    then a new one takes its place, and it is kept under another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in ORIGINALS.iterdir():  # the helpers and the pictures are no copies, and so they never get old
        link = folder / path.name
        if path.suffix != ".ipynb" and not path.name.startswith(("_", ".")) and not os.path.lexists(link):
            link.symlink_to(os.path.relpath(path, folder))
    sentences, copied = [], _copied(folder)
    for name in names():
        original, copy = _read(ORIGINALS / f"{name}.ipynb"), folder / f"{name}.ipynb"
        newer = copied.get(name) != _fingerprint(original)
        if not copy.exists():
            sentences.append(f"{name}: copied.")
        elif name in again:
            sentences.append(f"{name}: copied again. Your earlier copy is now {_set_aside(copy).name}.")
        elif newer and _untouched(copy, copied.get(name)):
            sentences.append(f"{name}: copied again, because there is a newer edition.")
        else:
            if newer:
                sentences.append(f"{name}: there is a newer edition, and yours stays as it is. {_how([name])}")
            continue
        files.replace(copy, json.dumps(_bare(original), indent=1, ensure_ascii=False) + "\n")
        copied[name] = _fingerprint(original)
    files.replace(folder / ".copied.json", json.dumps(copied, indent=1))
    return sentences


def outdated(folder: Path) -> str:
    """Return a sentence that names the lessons in `folder` whose originals are newer, empty if none is."""
    copied = _copied(folder)
    now = {name: _fingerprint(_read(ORIGINALS / f"{name}.ipynb")) for name in names() if name in copied}
    newer = [name for name, before in copied.items() if now.get(name, before) != before]
    return f"There is a newer edition of {', '.join(newer)}. {_how(newer)}" if newer else ""


def _how(lessons: list[str]) -> str:
    return f"To get it, type: python scripts/learn.py --again {' '.join(lessons)}"


def _copied(folder: Path) -> dict[str, str]:
    """Return the fingerprints of the originals, by lesson, as they were when they were copied to `folder`."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return dict(json.loads((folder / ".copied.json").read_text()))
    return {}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _bare(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return `notebook` without outputs and without the state of its widgets."""
    empty = {"outputs": [], "execution_count": None}
    cells = [cell | empty if cell["cell_type"] == "code" else cell for cell in notebook["cells"]]
    metadata = {key: value for key, value in notebook["metadata"].items() if key != "widgets"}
    return notebook | {"cells": cells, "metadata": metadata}


def _fingerprint(notebook: dict[str, Any]) -> str:
    """Return what is the same for two notebooks whose cells are the same, whatever their outputs are."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def _untouched(copy: Path, copied: str | None) -> bool:
    """Return whether nobody has changed or run `copy` since it was made."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        notebook = _read(copy)
        ran = any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
        return not ran and _fingerprint(notebook) == copied
    return False


def _set_aside(copy: Path) -> Path:
    """Rename `copy` to a name that is free, and return the new path."""
    number = 1
    while (path := copy.with_stem(f"{copy.stem} (earlier {number})")).exists():
        number += 1
    return copy.rename(path)
