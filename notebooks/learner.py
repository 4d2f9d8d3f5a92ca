"""What the learner has done so far: guesses, and exercises that a check found right. It stays on this machine."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from flows import files, settings
from flows.settings import CannotRun


class Guess(BaseModel):
    """A guess beside what was measured, both as the learner saw them."""

    guess: str
    measured: str
    right: bool
    off: float | None = None  # how far a number was off, as a share of what was measured
    confidence: float | None = None  # from 0 to 1, if the learner gave one


class Record(BaseModel):
    """The guesses by name, which begins with the lesson's number, and the names of the checks that said "Right"."""

    guesses: dict[str, Guess] = {}
    exercises: list[str] = []


def folder() -> Path:
    """Return the folder of the record. It is in the lab's folder, and `lab.reset` leaves it alone."""
    return settings.read().flows_lab_dir / "learner"


def read() -> Record:
    """Return the record, an empty one if there is none or if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return Record.model_validate_json((folder() / "learner.json").read_text())
    return Record()


def keep_guess(name: str, guess: Guess) -> None:
    """Keep `guess`, in place of an earlier one with this name."""
    _change(lambda record: record.guesses.update({name: guess}))


def keep_exercise(check: str) -> None:
    """Keep that the check with this name found an answer right."""
    _change(lambda record: check in record.exercises or record.exercises.append(check))


def _change(change: Callable[[Record], object]) -> None:
    """Apply `change` to the record. A disk that refuses this is reported, and stops no lesson."""
    try:
        with files.writable(folder()):
            folder().mkdir(parents=True, exist_ok=True)
            with files.lock(folder() / "learner.lock"):  # another lesson may run
                record = read()
                change(record)
                files.replace(folder() / "learner.json", record.model_dump_json(indent=1))
    except CannotRun as error:
        print(f"This will be missing from your summary. {error}")
