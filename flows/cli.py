"""What every command of the kit does alike: its arguments, its exit code, its JSON."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, NoReturn

from flows import settings
from flows.settings import CannotRun, Refused


class Arguments(argparse.ArgumentParser):
    """An argument parser that says in one line what is wrong with an argument."""

    def error(self, message: str) -> NoReturn:
        """Raise CannotRun with `message` and the way to the help."""
        raise CannotRun(f"{message}. See {self.prog} --help.")


def whole_number(text: str) -> int:
    """`text` as a number of at least 1, for `type=`: a limit of 0 lets nothing run, ever."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def print_json(answer: Mapping[str, Any]) -> None:
    """Print `answer` as one line of JSON on standard output."""
    print(json.dumps(answer, default=str), flush=True)


def run(main: Callable[[], int]) -> NoReturn:
    """Exit with what `main` returns (0: done, 1: the answer is no), or with 2 and one line where it cannot run.

    Credentials that the server refuses are a no.
    """
    try:
        code = main()
    except CannotRun as error:
        code = _say(error)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 1
    sys.exit(code)


@contextlib.contextmanager
def importing_prefect(module: str) -> Generator[None]:
    """For the import of Prefect, which reads its settings then, in the module of this name.

    Where it cannot read them, the command exits as `run` does; what imports its module gets CannotRun.
    """
    try:
        try:
            yield
        except ValueError as error:
            settings.read()  # may know more of it
            raise settings.unreadable(error) from None
    except CannotRun as error:
        if module != "__main__":
            raise
        sys.exit(_say(error))


def _say(error: CannotRun) -> int:
    """Print `error` as one line; return the exit code."""
    print(" ".join(str(error).split()), file=sys.stderr)
    return 1 if isinstance(error, Refused) else 2
