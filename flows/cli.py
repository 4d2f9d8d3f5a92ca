"""What all commands of the kit have in common: arguments, exit codes, JSON, quiet logs."""

import argparse
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from flows import settings
from flows.settings import CannotRun, Refused


class Arguments(argparse.ArgumentParser):
    """An argument parser that reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise CannotRun with `message` and how to get help."""
        raise CannotRun(f"{message}. See {self.prog} --help.")


def whole_number(text: str) -> int:
    """Return `text` as a number of at least 1, for `type=`: a limit of 0 would never let anything run."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of numbers from `low` to `high`, for `type=`."""

    def parse(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= float(text) <= high:
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")

    return parse


def quiet_prefect() -> None:
    """Keep Prefect's log lines off the console; the server has them all the same."""
    for name in ("", "prefect", "prefect._internal"):
        for handler in logging.getLogger(name).handlers:
            handler.setLevel(logging.CRITICAL)


def print_json(answer: Mapping[str, Any]) -> None:
    """Print `answer` as one line of JSON on standard output."""
    print(json.dumps(answer, default=str), flush=True)


def run(main: Callable[[], int]) -> NoReturn:
    """Exit with what `main` returns (0: done, 1: the answer is no), or with 2 and one line if it cannot run."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # let them interrupt, as Ctrl-C does
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main())
    except CannotRun as error:
        _exit(error)
    except KeyboardInterrupt:
        sys.exit("Interrupted.")  # with 1


@contextlib.contextmanager
def importing(module: str) -> Generator[None]:
    """Import Prefect or the lab in the block. If that fails, a command exits as in `run`; a module raises CannotRun."""
    try:
        settings.read()
        if (of_folder := Path(".env").resolve()).is_file():  # Prefect reads this one as well
            settings.text(of_folder)
        yield
    except (CannotRun, ValueError) as error:  # Prefect reads its settings when it is imported
        cannot_run = error if isinstance(error, CannotRun) else settings.unreadable(error)
        if module != "__main__":
            raise cannot_run from None
        _exit(cannot_run)


def _exit(error: CannotRun) -> NoReturn:
    print(" ".join(str(error).split()), file=sys.stderr)
    sys.exit(1 if isinstance(error, Refused) else 2)
