"""The lessons' exercises tell a right answer from a wrong one."""

import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode
from support.notebooks import GRADED, execute, read, tagged, text

from flows import lab, limits
from flows.api import server


class Wrong(NamedTuple):
    """A plausible wrong answer to the `exercise` (from 0), and what the hint then says."""

    exercise: int
    answer: str
    hint: str


WRONG = {
    "01_auth": [
        Wrong(0, 'repaired = broken | {"PREFECT_API_URL": url}', "both|Bearer|user and password|Basic|basic"),
        Wrong(0, 'repaired = {"PREFECT_API_URL": url, "PREFECT_API_KEY": f"Bearer {working}"}', "begins with the word"),
        Wrong(1, "revoked = next(name for name in three if name in keys.bearer())", "the server accepts the key of"),
        Wrong(2, 'configuration = {"PREFECT_API_URL": url, "PREFECT_API_KEY": "*" * 30}', "rejected the key"),
        Wrong(2, 'configuration = {"PREFECT_API_URL": url, "key": working}', "shows the key"),
    ],
    "02_limits": [
        Wrong(0, "predicted = {1: 3, 3: 1, 5: 0.6, 10: 0.3}", "a limit of 3 it cannot take 1.0 s"),
        Wrong(0, "predicted = {1: 3, 3: 9, 5: 15, 10: 30}", "less than 9.0 s"),
        Wrong(
            1, 'tags = dict.fromkeys(["orders", "archive"], "lesson-one"); limits.ensure("lesson-one", 5)', "same tag"
        ),
        Wrong(1, 'tags = {"orders": "orders", "archive": "archive"}', "'orders' does not begin with 'lesson-'"),
        Wrong(1, 'tags = {"orders": "lesson-o", "archive": "lesson-a"}', "no limit for the tag"),
        Wrong(1, 'limits.ensure("lesson-o", 3); limits.ensure("lesson-a", 3)', "archive at once, but it accepts 2"),
        Wrong(1, 'limits.ensure("lesson-o", 2); limits.ensure("lesson-a", 2)', "One connection is never used"),
        Wrong(2, 'leaked = globals().get("lost", "lost")', "name one of"),
        Wrong(2, "leaked = next(tag for tag in suspects if not limits.read(tag).active_slots)", "has not lost a slot"),
        Wrong(2, "leaked = next(tag for tag in suspects if limits.read(tag).active_slots)", "is still taken"),
        Wrong(2, "limits.ensure(leaked, 3)", "no longer 2"),
        Wrong(2, "limits.ensure(leaked, 2)", "is still taken"),
    ],
    "03_parallel_flow": [
        Wrong(
            0,
            """@flow(name="lesson exercise cleanup")
def job():
    futures = [sql_query.submit(name) for name in broken]
    cleanup()
    return futures
_ = job(return_state=True)""",
            "before the last query had ended",
        ),
        Wrong(
            0,
            """@flow(name="lesson exercise cleanup")
def job():
    futures = [sql_query.submit(name) for name in broken]
    cleanup.submit(wait_for=futures).wait()
_ = job(return_state=True)""",
            "cleanup is NotReady",
        ),
        Wrong(1, 'wasted = {"batches": 0.0, "pool": 0.0, "server": 0.0}', "is not what 'batches' wasted"),
        Wrong(
            1,
            'wasted = {w: limit * seconds(r) - sum(skewed) for w, r in skewed_runs.items()}; because = "c"',
            "the cause is a different one",
        ),
        Wrong(
            2,
            """newest = task(newest_order, task_run_name="newest_order")
@flow(name="lesson exercise query")
def nightly():
    for future in [newest.submit(), *[sql_query.submit(name) for name in names]]:
        future.wait()
_ = nightly(return_state=True)""",
            "has no tag",
        ),
        Wrong(
            2,
            """newest = task(newest_order, tags=["database"], task_run_name="newest_order")
@flow(name="lesson exercise query")
def nightly():
    for future in [sql_query.submit(name) for name in names]:
        future.wait()
    newest()
_ = nightly(return_state=True)""",
            "was submitted after all others",
        ),
    ],
    "04_rest_queries": [
        Wrong(0, 'slowest = frame.loc[frame["ran_seconds"].idxmax(), "name"]', "did not start in that time"),
        Wrong(
            0,
            """of_run = frames.task_runs(rest.rows(endpoints.task_runs(flow_run=earlier)), now)
slowest = frames.tagged(of_run, "database").sort_values("ran_seconds")["name"].iloc[0]""",
            "but another one ran longer",
        ),
        Wrong(1, 'reasons = dict.fromkeys(waiting, "no worker")', "waits for a different reason"),
        Wrong(1, 'reasons = dict.fromkeys(waiting, "it is slow")', "one of the four reasons"),
        Wrong(2, 'body = {"flow_run": {"state": {"type": {"any_": ["FAILED"]}}}}', "does not know the key 'flow_run'"),
        Wrong(2, 'body = {"flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}', "misses runs of the type CRASHED"),
        Wrong(2, 'body = {"flow_runs": {"tags": {"all_": []}}}', "runs that have not failed|misses"),
    ],
}


@pytest.mark.long
@pytest.mark.parametrize("name", GRADED)
def test_exercises_tell_right_from_wrong_also_after_a_kernel_that_was_killed(name: str, lab_folder: Path) -> None:
    """The stub and each wrong answer get the hint that fits them, the solution is right."""
    interrupted = read(name)
    del interrupted.cells[len(interrupted.cells) // 2 :]
    interrupted.cells.append(nbformat.v4.new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    with pytest.raises(Exception, match="Kernel died"):
        execute(interrupted, lab_folder)
    for number, left in enumerate(['{"mark": [1, 1.0]}', '{"mark": [1,', "[]"]):  # of an older kit, or cut off
        (lab_folder / "lessons" / f"0{number}.json").write_text(left)
    server.use()
    limits.ensure("of-somebody", 7)
    notebook = read(name)
    expected: list[tuple[NotebookNode, str]] = []
    checks, solutions = tagged(notebook, "check"), tagged(notebook, "solution")
    for number in reversed(range(3)):
        check = notebook.cells[checks[number]]
        expected.append((check, "^Not yet: "))
        expected.append((notebook.cells[solutions[number]], "^Right: "))
        added = []
        for wrong in (wrong for wrong in WRONG[name] if wrong.exercise == number):
            cell = nbformat.v4.new_code_cell(f"{wrong.answer}\n{check.source.splitlines()[-1]}")
            expected.append((cell, f"^Not yet: .*({wrong.hint})"))
            added.append(cell)
        assert added, "each exercise has a wrong answer that is tried"
        notebook.cells[checks[number] + 1 : checks[number] + 1] = added
    execute(notebook, lab_folder)
    for cell, pattern in expected:
        lines = text(cell).splitlines()
        assert len(lines) == 1 and re.search(pattern, lines[0]), (cell.source, lines, pattern)
    assert not list((lab_folder / "lessons").iterdir()) and lab.status().auth == "none"
    server.use()
    kept = limits.read("of-somebody")
    assert kept and kept.limit == 7, "the next lesson has removed what was made since the interruption"
