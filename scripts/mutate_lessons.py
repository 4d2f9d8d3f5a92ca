"""Change the lessons' code at random, one place at a time, and count how many changes are noticed.

    python scripts/mutate_lessons.py [--lessons 02_limits …] [--most 10] [--seed 1] [--json]

A change in a lesson is noticed if a cell fails, or if nbval finds another output than the stored one. A change in a
solution is noticed if the exercise's check does not accept it any more. Each change runs the whole lesson on the lab in
use, so ten of each lesson take about an hour. Changes that cannot matter are counted and not tried: see IDLE.
"""

import ast
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import cli, settings
from flows.api import server

sys.path.insert(0, str(settings.PROJECT / "notebooks"))

import copies

IDLE = {  # what a change looks like that no lesson can notice, and why
    r"^without assert ": "an assertion is a check itself",
    r"^without my_guess = ": "a guess is empty in the stored lesson; tests/notebooks look after its cell",
    r" in place of .* in .*(Slider\(|SelectMultiple\(|width=|strokeDash=|domain=)": "it only lays out something",
    r" in place of (\S+) in .*(time\.sleep\(|timeout=|seconds=|monotonic\(\) \+ )\1\b": "a pause may be longer",
    r"^without time\.sleep\(.* in a loop that waits$": "without a pause, it asks more often",
    r"^without reasons = {}$": "the exercise's cell has made it, and the solution replaces all of its entries",
    r" in guesses\.compare\(": "nobody made a guess, so nobody reads what it is compared with",
    r" in place of .* in .*(retries|retry_\w+)=": "it is tried again only if the database refuses it",
}
UNKEPT = r"for future in \[.*\]:\s+future\.(wait|result)\(\)"  # a loop over tasks that only take time
SWAPPED = {"wait": "result", "result": "wait"}
NBVAL = ["pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
NBVAL += ["--nbval-cell-timeout", "150", "--nbval-sanitize-with", str(settings.PROJECT / "tests" / "nbval.cfg")]
EXECUTE = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--allow-errors", "--inplace"]
SOLUTION = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


class Mutation(NamedTuple):
    """A change of the code in cell number `cell` of a lesson; `of_solution` if that is the fold of a solution."""

    cell: int
    what: str
    source: str
    of_solution: bool


def mutations(source: str) -> Iterator[tuple[str, str]]:
    """Yield what each change does, and the changed `source`: without a line or tags, another number, a swapped call."""
    for place, node in enumerate(ast.walk(ast.parse(source))):
        body = getattr(node, "body", None)
        for number in range(len(body) if isinstance(body, list) else 0):
            tree, same = _copy(source, place)
            line = ast.unparse(same.body.pop(number))
            same.body = same.body or [ast.Pass()]
            waiting = " in a loop that waits" if isinstance(node, ast.While) else ""
            yield f"without {line.splitlines()[0]}{waiting}", ast.unparse(tree)
        tree, same = _copy(source, place)
        if isinstance(same, ast.Call) and any(keyword.arg == "tags" for keyword in same.keywords):
            same.keywords = [keyword for keyword in same.keywords if keyword.arg != "tags"]
            yield f"without tags in {_line(source, same)}", ast.unparse(tree)
        elif isinstance(same, ast.Attribute) and same.attr in SWAPPED:
            same.attr = SWAPPED[same.attr]
            yield f"{same.attr} in place of {SWAPPED[same.attr]} in {_line(source, same)}", ast.unparse(tree)
        elif isinstance(same, ast.Constant) and type(same.value) in (int, float):
            before = same.value
            same.value += 1
            yield f"{same.value} in place of {before} in {_line(source, same)}", ast.unparse(tree)


def of_lesson(notebook: dict[str, Any]) -> Iterator[Mutation]:
    """Yield all mutations of a lesson's code and solutions; not those of its parameters, which learners may change."""
    for number, cell in enumerate(notebook["cells"]):
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and not {"parameters", "exercise", "check"} & set(tags):
            yield from (Mutation(number, *mutation, False) for mutation in mutations(source))
        if "solution" in tags and (fold := SOLUTION.search(source)):
            yield from (Mutation(number, *mutation, True) for mutation in mutations(fold[1]))


def why_idle(mutation: Mutation) -> str:
    """Return why this mutation cannot matter, empty if it can."""
    if re.search(r"^(wait|result) in place of .* in future\.", mutation.what) and re.search(UNKEPT, mutation.source):
        return "the tasks do not fail, and nobody reads what they return"
    return next((reason for pattern, reason in IDLE.items() if re.search(pattern, mutation.what)), "")


def is_noticed(lesson: str, notebook: dict[str, Any], mutation: Mutation) -> bool:
    """Run a lesson with a mutation, and return whether something notices it."""
    cells = [dict(cell) for cell in notebook["cells"]]
    place, source = mutation.cell, mutation.source
    if mutation.of_solution:
        place = max(n for n in range(place) if "check" in cells[n]["metadata"].get("tags", []))
        source = f"{source}\n{''.join(cells[place]['source'])}"
    cells[place]["source"] = source
    with tempfile.TemporaryDirectory(prefix="flows-mutated-") as folder:
        copies.make(Path(folder))
        path = Path(folder) / f"{lesson}.ipynb"
        path.write_text(json.dumps(notebook | {"cells": cells}))
        command = [*EXECUTE, path] if mutation.of_solution else [*NBVAL, path]
        done = subprocess.run([sys.executable, "-m", *command], cwd=settings.PROJECT, capture_output=True, check=False)
        if not mutation.of_solution:
            return done.returncode != 0
        outputs = json.loads(path.read_text())["cells"][place]["outputs"]
        return "Right: " not in "".join("".join(output.get("text", "")) for output in outputs)


def main() -> int:
    """Try some mutations of each lesson. Return 1 if fewer than nine in ten were noticed in one of them."""
    parser = cli.Arguments(description="Count how many random changes of the lessons' code are noticed.")
    parser.add_argument("--lessons", nargs="+", choices=copies.names(), default=copies.names(), metavar="LESSON")
    parser.add_argument("--most", type=cli.whole_number, default=10, help="how many changes of each lesson (10)")
    parser.add_argument("--seed", type=int, default=1, help="another number chooses other changes (1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen, rows = parser.parse_args(), list[dict[str, Any]]()
    server.use()
    for lesson in chosen.lessons:
        notebook = json.loads((copies.ORIGINALS / f"{lesson}.ipynb").read_text())
        possible = list(of_lesson(notebook))
        idle = Counter(reason for mutation in possible if (reason := why_idle(mutation)))
        matter = [mutation for mutation in possible if not why_idle(mutation)]
        if is_noticed(lesson, notebook, Mutation(0, "nothing", "".join(notebook["cells"][0]["source"]), False)):
            raise settings.CannotRun(f"{lesson} fails without a change. Mend that first: run nbval on it.")
        tried = random.Random(chosen.seed).sample(matter, min(chosen.most, len(matter)))
        survivors = [mutation for mutation in tried if not is_noticed(lesson, notebook, mutation)]
        named = [f"cell {mutation.cell}: {mutation.what}" for mutation in survivors]
        row = {"lesson": lesson, "matter": len(matter), "tried": len(tried), "survivors": named, "cannot_matter": idle}
        rows.append(row)
        print(f"{lesson}: {len(tried) - len(survivors)} of {len(tried)} noticed", file=sys.stderr, flush=True)
    if chosen.json:
        cli.print_json({"rows": rows})
    else:
        shown = Table("lesson", "may matter", "tried", "not noticed", "cannot matter, and why")
        for row in rows:
            left_out = [f"{number}: {reason}" for reason, number in row["cannot_matter"].items()]
            named = ["\n".join(map(escape, lines)) for lines in (row["survivors"], left_out)]
            shown.add_row(row["lesson"], str(row["matter"]), str(row["tried"]), *named)
        Console().print(shown)
    return 0 if all(len(row["survivors"]) <= row["tried"] / 10 for row in rows) else 1


def _copy(source: str, place: int) -> tuple[ast.Module, Any]:
    """Return a new tree of `source`, and its node number `place`."""
    tree = ast.parse(source)
    return tree, list(ast.walk(tree))[place]


def _line(source: str, node: ast.expr) -> str:
    return source.splitlines()[node.lineno - 1].strip()


if __name__ == "__main__":
    cli.run(main)
