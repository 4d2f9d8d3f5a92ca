"""How the learner's guesses did, by what was measured."""

import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import learner

CLOSE = 0.2  # a measured time differs from run to run, so a guess counts as right if it is off by no more than this
NONE = "You made no guess this time. Next time, write one first: even a wrong guess teaches you more than none."

_first: dict[str, str] = {}  # the guesses as they were when this kernel's lesson first compared them


def forget_first() -> None:
    """Let guesses count again, because a lesson begins."""
    _first.clear()


def compare(name: str, guess: object, measured: object, unit: str = "", among: Sequence[str] = ()) -> None:
    """Print how `guess` did, by what was `measured`, and keep it under `name`, which begins with the lesson's number.

    What was measured is a number, yes or no as a bool, or a word, which may be one of `among`; or several of them by
    name. A guess may come with a confidence: `(3, 0.8)`. One that is missing is asked for, and none raises an error.
    """
    if not isinstance(measured, Mapping):
        guess, measured = {"": guess}, {"": measured}
    elif _missing(guess):
        guess = {}
    elif not isinstance(guess, Mapping):
        form = ", ".join(f'"{part}": …' for part in measured)
        print(f"{reprlib.repr(guess)} was not counted, because several things were asked. Write {{{form}}}.")
        return
    missing = [part for part in measured if _missing(guess.get(part))]
    if missing:
        print(NONE if len(missing) == len(measured) else f"You made no guess for {' and '.join(missing)}.")
    for part, value in measured.items():
        whole = f"{name}: {part}" if part else name
        if part in missing:
            _first.setdefault(whole, "")
        else:
            _compare(whole, f"{part}: " if part else "", guess[part], value, unit, among)


def judge(guess: object, measured: object, unit: str = "", among: Sequence[str] = ()) -> tuple[learner.Guess, str]:
    """Return how `guess` did, and a sentence that says so. Raises ValueError if it cannot be understood."""
    guess, confidence = _confidence(guess)
    measured = measured.item() if hasattr(measured, "item") else measured  # pandas has numbers of its own
    off = None
    if isinstance(measured, bool):
        guessed, was = _yes_or_no(guess), "yes" if measured else "no"
        right = guessed == was
    elif isinstance(measured, str):
        guessed, was = _word(guess, among), measured
        right = guessed.casefold() == was.casefold()
    else:
        number = _number(guess)
        of_time = isinstance(measured, float)
        guessed, was = (_shown(value, unit, of_time) for value in (number, measured))
        off = abs(number - measured) / (abs(measured) or 1)
        right = off <= CLOSE if of_time else number == measured
    sentence = f"You guessed {guessed}, and it was {was}."
    if right and guessed.casefold() == was.casefold():
        sentence = f"Your guess was right: it was {was}."
    elif off is not None:
        direction = "too high" if number > measured else "too low"
        sentence = f"{sentence[:-1]}: {_distance(number, measured, of_time)} {direction}."
        if right:
            sentence += " That is close enough to count as right."
    if confidence is not None:
        sentence += f" You were {100 * confidence:.0f} % sure."
    return learner.Guess(guess=guessed, measured=was, right=right, off=off, confidence=confidence), sentence


def _compare(name: str, label: str, guess: object, measured: object, unit: str, among: Sequence[str]) -> None:
    try:
        result, sentence = judge(guess, measured, unit, among)
    except ValueError as problem:
        print(f"{label}{problem}")
        return
    given = f"{result.guess} {result.confidence}"
    if name not in _first:
        learner.keep_guess(name, result)
    elif _first[name] != given:
        sentence += " It does not count, because you had already seen the result."
    _first.setdefault(name, given)
    print(f"{label}{sentence}")


def _missing(guess: object) -> bool:
    """Return whether there is no guess: None, an ellipsis, empty text, or several guesses that are all missing."""
    if isinstance(guess, Mapping):
        return all(map(_missing, guess.values()))
    if isinstance(guess, tuple) and len(guess) == 2:
        return _missing(guess[0])
    return guess is None or guess is ... or (isinstance(guess, str) and not guess.strip(" .…"))


def _confidence(guess: object) -> tuple[Any, float | None]:
    """Return `guess` without its confidence, and the confidence."""
    if not isinstance(guess, tuple) or len(guess) != 2:
        return guess, None
    value, confidence = guess
    if isinstance(confidence, int | float) and 0 < confidence <= 1:
        return value, float(confidence)
    raise ValueError(
        f"{reprlib.repr(confidence)} is not a confidence, so this guess was not counted. A confidence is a number"
        " such as 0.8, above 0 and up to 1. (If you meant a decimal number, write it with a point.)"
    )


def _yes_or_no(guess: object) -> str:
    if isinstance(guess, bool):
        return "yes" if guess else "no"
    word = guess.strip(" .!").casefold() if isinstance(guess, str) else ""
    if word in ("yes", "y", "true"):
        return "yes"
    if word in ("no", "n", "false"):
        return "no"
    raise ValueError(f'{reprlib.repr(guess)} was not counted, because the question asks for "yes" or "no".')


def _word(guess: object, among: Sequence[str]) -> str:
    if not isinstance(guess, str | int) or isinstance(guess, bool):
        raise ValueError(
            f"{reprlib.repr(guess)} was not counted, because the question asks for a word or a whole number."
        )
    word = " ".join(str(guess).split()).strip(" .!")
    if among and word.casefold() not in [choice.casefold() for choice in among]:
        choices = ", ".join(f'"{choice}"' for choice in among)
        raise ValueError(f"{reprlib.repr(guess)} was not counted, because it is none of {choices}.")
    return word


def _number(guess: Any) -> float:
    try:
        number = math.nan if isinstance(guess, bool) else float(guess)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{reprlib.repr(guess)} was not counted, because the question asks for a number such as 3.")
    return number


def _shown(number: float, unit: str, of_time: bool) -> str:
    return f"{number:.1f} {unit}".rstrip() if of_time and abs(number) < 1e6 else f"{number:g}"


def _distance(number: float, measured: float, of_time: bool) -> str:
    """Return how far `number` is from what was measured: in per cent for a time, otherwise as a difference."""
    if not of_time or not measured:
        return f"{abs(number - measured):g}"
    percent = 100 * abs(number - measured) / abs(measured)
    return f"{percent:.0f} %" if percent < 1000 else "more than ten times"
