"""The lessons' exercises tell a right answer from a wrong one."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode
from support.notebooks import GRADED, check_guesses, execute, plant_guesses, small, solution, summary, tagged, text

from flows import lab, limits, settings
from flows.api import server


class Wrong(NamedTuple):
    """A plausible wrong answer to the `exercise` (from 0), and what the hint then says."""

    exercise: int
    answer: str
    hint: str


class Right(NamedTuple):
    """An answer to the `exercise` (from 0) that is right, and is not the solution."""

    exercise: int
    answer: str


def cleanup(body: str, queries: str = "from_bad_to_good") -> str:
    """Return a flow for 03, exercise 1, with `body` after its queries are submitted, and a call of it."""
    lines = body.replace("\n", "\n    ")
    return f"""@flow(name="lesson exercise cleanup")
def job():
    futures = [sql_query.submit(name) for name in {queries}]
    {lines}
_ = job(return_state=True)"""


def one_more(newest: str, call: str = "newest.submit()", first: str = "") -> str:
    """Return a flow for 03, exercise 3, which submits the queries after `first`, and then does `call`; and run it."""
    return f"""{newest}
@flow(name="lesson exercise query")
def nightly():
    {first}
    futures = [sql_query.submit(name) for name in names]
    futures.append({call})
    for future in futures:
        future.wait()
_ = nightly(return_state=True)"""


NEWEST = 'newest = task(newest_order, tags=["database"], task_run_name="newest_order")'
WAIT = "for future in futures: future.wait()\n"
FAILED = '"flow_runs": {"state": {"type": {"any_": ["FAILED", "CRASHED"]}}}'
WRONG = {
    "01_auth": [
        Wrong(0, 'repaired = broken | {"PREFECT_API_URL": url}', "both|Bearer|user and password|Basic|basic"),
        Wrong(0, 'repaired = {"PREFECT_API_URL": url, "PREFECT_API_KEY": f"Bearer {working}"}', "begins with the word"),
        Wrong(1, "revoked = next(name for name in three if name in keys.bearer())", "the server accepts the key of"),
        Wrong(2, 'configuration = {"PREFECT_API_URL": url, "PREFECT_API_KEY": "*" * 30}', "rejected the key"),
        Wrong(2, 'configuration = {"PREFECT_API_URL": url, "key": working}', "shows the key"),
        Wrong(
            2,
            """from pydantic import create_model
Shown = create_model("Shown", PREFECT_API_URL=str, PREFECT_API_KEY=str)
configuration = Shown(PREFECT_API_URL=url, PREFECT_API_KEY=working)""",
            "print shows the key",
        ),
    ],
    "02_limits": [
        Wrong(
            0,
            "predicted = {1: 3, 3: 1, 5: 0.6, 10: 0.3}",
            "a limit of 3 it cannot take 1.00 s.* Already right: limit 1",
        ),
        Wrong(0, "predicted = {1: 2.75, 3: 1.09, 5: 0.55, 10: 0.28}", "a limit of 1 it cannot take 2.75 s"),
        Wrong(0, 'predicted = {1: "long", 3: 1.3, 5: 0.7, 10: 0.4}', "'long' is not a number"),
        Wrong(0, 'predicted = dict.fromkeys(tried, float("nan"))', "nan is not a number"),
        Wrong(0, "predicted = {1: 3, 3: 90, 5: 150, 10: 300}", "less than 90.0 s"),
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
        Wrong(
            2,
            """limits.reset(leaked)  # and then the cell that takes a slot again
exercises.hold_slot(next(tag for tag in suspects if tag != leaked))""",
            "has not lost a slot",
        ),
    ],
    "03_parallel_flow": [
        Wrong(0, cleanup("cleanup()\nreturn futures"), "before the last query had ended"),
        Wrong(0, cleanup("cleanup.submit(wait_for=futures).wait()"), "cleanup is NotReady"),
        Wrong(
            0,
            cleanup("try:\n    [future.result() for future in futures]\nfinally:\n    cleanup()"),
            "before the last query had ended",
        ),
        Wrong(0, cleanup("cleanup.fn()\nreturn futures"), "files are left in staging"),
        Wrong(0, cleanup("time.sleep(15)\ncleanup()"), "wait for the futures instead"),
        Wrong(0, cleanup(f"{WAIT}cleanup()", '["no_such_query"]'), "Submit all 3 queries"),
        Wrong(0, cleanup(f"{WAIT}cleanup()", "names[:1]"), "no task run of no_such_query"),
        Wrong(1, 'wasted = {"batches": 0.0, "pool": 0.0, "server": 0.0}', "is not what 'batches' wasted"),
        Wrong(
            1,
            'wasted = {w: limit * seconds(r) - sum(skewed) for w, r in skewed_runs.items()}; because = "c"',
            "the cause is a different one.* Already right: batches, pool, server",
        ),
        Wrong(
            1,
            "wasted = {w: (limit * seconds(r) - sum(skewed)) / 2 for w, r in skewed_runs.items()}",
            "is not what 'batches' wasted",
        ),
        Wrong(
            1,
            'wasted = {w: limit * seconds(r) - sum(skewed) for w, r in skewed_runs.items()} | {"pool": -0.1}',
            "no less than 0 slot-seconds can be wasted",
        ),
        Wrong(2, one_more("newest = task(newest_order, retries=20, retry_delay_seconds=1)"), "has no tag"),
        Wrong(2, one_more('newest = task(newest_order, tags=["database"], task_run_name="{name}")'), "never began"),
        Wrong(2, one_more(NEWEST, "newest(return_state=True)", WAIT), "of the other queries|after all others"),
        Wrong(2, one_more(NEWEST, "futures[0]", "newest()"), "had ended before the others"),
        Wrong(2, one_more('newest = task(lambda: 1, tags=["database"])'), "takes a second"),
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
        Wrong(2, f'body = {{{FAILED}, "limit": 1}}', "Leave out the limit"),
        Wrong(2, f'body = {{{FAILED}, "flows": {{"name": {{"any_": ["lesson"]}}}}}}', "of other flows"),
        Wrong(2, 'body = {"flow_runs": {"name": {"any_": ["lesson 0", "lesson 1"]}}}', "with other names"),
        Wrong(
            2, 'body = {"flow_runs": {"state": {"name": {"any_": ["Failed", "Crashed"]}}}}', "name 'TimedOut'. Filter"
        ),
        Wrong(2, 'body = {"flow_runs": {"state": {"type": {"any_": ["Failed"]}}}}', r"422: .*[^x]\.$"),
    ],
}
RIGHT = {
    "01_auth": [
        Right(0, 'repaired = {"PREFECT_API_URL": url.replace("127.0.0.1", "localhost"), "PREFECT_API_KEY": working}'),
        Right(0, 'repaired = {"PREFECT_API_URL": url, "PREFECT_API_KEY": working, "PREFECT_API_AUTH_STRING": ""}'),
        Right(
            0,
            """bearer = json.dumps({"Authorization": f"Bearer {working}"})
repaired = {"PREFECT_API_URL": url, "PREFECT_CLIENT_CUSTOM_HEADERS": bearer}""",
        ),
        Right(
            2,
            """from pydantic import Secret
configuration = {"PREFECT_API_URL": url, "PREFECT_API_KEY": Secret[str](working)}""",
        ),
        Right(
            2,
            """from pydantic import SecretStr, create_model
Hidden = create_model("Hidden", prefect_api_url=str, prefect_api_key=SecretStr)
configuration = Hidden(prefect_api_url=url, prefect_api_key=working)""",
        ),
    ],
    "02_limits": [Right(0, 'predicted = {1: "3.2", 3: "1.3", 5: "0.7", 10: "0.4"}')],
    "03_parallel_flow": [
        Right(0, cleanup(f"{WAIT}cleanup.fn()")),
        Right(0, cleanup(f"{WAIT}task(cleanup.fn, name='sweep', task_run_name='sweep')()")),
        Right(0, cleanup("from prefect.futures import wait\nwait(futures)\ncleanup.submit().wait()")),
        Right(
            1,
            """ran = {w: lessons.finished(r, naps).task_runs["ran_seconds"].sum() for w, r in skewed_runs.items()}
wasted = {w: f"{limit * seconds(r) - ran[w]:.1f}" for w, r in skewed_runs.items()}; because = 'A.'""",
        ),
        Right(2, one_more('@task(tags=["database"])\ndef newest(): return newest_order()')),
        Right(
            2,
            one_more("""from prefect.concurrency.sync import concurrency
@task
def newest():
    with concurrency("tag:database", occupy=1):
        return newest_order()"""),
        ),
    ],
    "04_rest_queries": [
        Right(2, f'body = {{{FAILED}, "sort": "ID_DESC", "limit": 200}}'),
    ],
}


@pytest.mark.long
@pytest.mark.parametrize("name", GRADED)
def test_exercises_tell_right_from_wrong_also_after_a_kernel_that_was_killed(name: str, lab_folder: Path) -> None:
    """The stub and each wrong answer get the hint that fits them; the solution and other right answers are right.

    And whatever was guessed on the way, a sentence says how the guess did.
    """
    interrupted = small(name)
    del interrupted.cells[len(interrupted.cells) // 2 :]
    interrupted.cells.append(nbformat.v4.new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    with pytest.raises(Exception, match="Kernel died"):
        execute(interrupted, lab_folder)
    for number, left in enumerate(['{"mark": [1, 1.0]}', '{"mark": [1,', "[]"]):  # of an older kit, or cut off
        (lab_folder / "lessons" / f"0{number}.json").write_text(left)
    server.use()
    limits.ensure("of-somebody", 7)
    shutil.rmtree(lab_folder / "learner", ignore_errors=True)
    notebook = small(name)
    plant_guesses(notebook)
    expected: list[tuple[NotebookNode, str]] = []
    checks, solutions = tagged(notebook, "check"), tagged(notebook, "solution")
    for number in reversed(range(3)):
        check = notebook.cells[checks[number]]
        asked = check.source.splitlines()[-1]
        expected.append((check, "^Not yet: "))
        added = []
        for wrong in (wrong for wrong in WRONG[name] if wrong.exercise == number):
            added.append(nbformat.v4.new_code_cell(f"{wrong.answer}\n{asked}"))
            expected.append((added[-1], f"^Not yet: .*({wrong.hint})"))
        assert added, "each exercise has a wrong answer that is tried"
        right = [right.answer for right in RIGHT[name] if right.exercise == number]
        for answer in [*right, solution(notebook.cells[solutions[number]])]:
            added.append(nbformat.v4.new_code_cell(f"{answer}\n{asked}"))
            expected.append((added[-1], "^Right: "))
        notebook.cells[checks[number] + 1 : checks[number] + 1] = added
    execute(notebook, lab_folder, PYTHONPATH=str(settings.PROJECT / "tests"))
    check_guesses(notebook)
    for cell, pattern in expected:
        lines = text(cell).splitlines()
        assert len(lines) == 1 and re.search(pattern, lines[0]), (cell.source, lines, pattern)
    assert not list((lab_folder / "lessons").iterdir()) and lab.status().auth == "none"
    assert f"{name} 3 of 3" in summary(notebook), "what a check found right is done"
    server.use()
    kept = limits.read("of-somebody")
    assert kept and kept.limit == 7, "the next lesson has removed what was made since the interruption"
