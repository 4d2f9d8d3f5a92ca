"""What every command of the kit does alike: its arguments, its exit code, its JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

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
        print(" ".join(str(error).split()), file=sys.stderr)
        code = 1 if isinstance(error, Refused) else 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 1
    sys.exit(code)
