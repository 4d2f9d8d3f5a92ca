"""The lessons: their form, their exercises, and that a mistake in them or in the kit turns one of them red."""

import contextlib
import itertools
import os
import pickle
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from playwright.sync_api import Browser, expect
from streamlit.testing.v1 import AppTest
from support.servers import forget_servers
from support.waiting import eventually

import records
from flows import lab, limits, settings
from flows.api import endpoints, limit_endpoints, rest, server
from flows.lab import prefect_server
from flows.monitor import charts

FOLDER = settings.PROJECT / "notebooks"
NAMES = ["01_auth", "02_limits", "03_parallel_flow", "04_rest_queries", "playground"]
GRADED = NAMES[:-1]


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tagged(notebook: NotebookNode, tag: str) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])]


# Their form.


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_prose_is_plenty(name: str) -> None:
    notebook = read(name)
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code(notebook)]
    assert max(lengths) <= 12 and statistics.median(lengths) <= 3
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", "", prose(notebook))
    assert len(text.split()) >= sum(len(cell.source.split()) for cell in code(notebook)), "less prose than code"


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_and_ends_as_every_lesson_does(name: str) -> None:
    notebook = read(name)
    top = notebook.cells[0].source
    for part in ("What you will do.", "What you will learn.", "What you need.", "How long it takes.", "!["):
        assert part in top
    assert len(re.findall(r"^- [a-z]", top, re.M)) >= 2, "objectives are verbs in a list"
    assert tagged(notebook, "parameters") == [1]
    assert code(notebook)[1].source.endswith("lessons.begin()")
    assert "lessons.end(" in notebook.cells[-1].source
    assert "**Next:**" in prose(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_its_flows_have_names_by_which_the_end_removes_them(name: str) -> None:
    sources = "\n".join(cell.source for cell in code(read(name)))
    named = re.findall(r'\bflow\((?:.*, )?name="([^"]+)"', sources)
    named += re.findall(r'"(?:flows|work_pools)/", \{"name": "([^"]+)"', sources)
    assert len(re.findall(r"@flow\b", sources)) == sources.count("@flow(name=")
    assert all(flow.startswith(records.PREFIX) for flow in named), named


@pytest.mark.parametrize("name", NAMES)
def test_headings_come_in_order(name: str) -> None:
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(read(name)), re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_it_was_run_from_a_fresh_kernel_and_its_outputs_are_clean(name: str) -> None:
    notebook = read(name)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "nbval would compare it"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_pictures_say_what_they_show(name: str) -> None:
    notebook = read(name)
    written = re.findall(r"!\[([^]]*)\]", prose(notebook))
    pages = [str(output.data.get("text/html", "")) for cell in code(notebook) for output in cell.get("outputs", [])
             if "data" in output]  # fmt: skip
    drawn = [tag for page in pages for tag in re.findall(r"<img[^>]*>", page)]
    described = written + [alt[1] for tag in drawn if (alt := re.search(r'alt="([^"]*)"', tag))]
    assert len(described) == len(written) + len(drawn) > 0
    assert all(len(alt.split()) >= 5 for alt in described)
    assert not [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(read(name)))
    assert links
    for link in links:
        assert link.startswith("https://") or (FOLDER / link).is_file(), link


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_machine_and_no_secret_is_in_it(name: str) -> None:
    text = re.sub(r"base64,[\w+/=]+", "", (FOLDER / f"{name}.ipynb").read_text())
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert not re.search(r"pnu_[\w-]{20}|Bearer [\w-]{20}|Basic [\w+/=]{20}", text)


@pytest.mark.parametrize("name", GRADED)
def test_exercises_have_a_stub_a_check_a_hint_and_a_hidden_solution(name: str) -> None:
    notebook = read(name)
    stubs, checks, solutions = (tagged(notebook, tag) for tag in ("exercise", "check", "solution"))
    assert len(stubs) == len(checks) == len(solutions) == 3 == prose(notebook).count("<summary>A hint</summary>")
    for stub, check, solution in zip(stubs, checks, solutions, strict=True):
        assert stub < check < solution
        asked = notebook.cells[check].source.splitlines()[-1]
        assert asked.startswith("checks.") and notebook.cells[solution].source.endswith(asked)
        assert notebook.cells[solution].metadata.jupyter.source_hidden


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_has_room_before_what_it_is_about(name: str) -> None:
    cells = read(name).cells
    asked = [place for place, cell in enumerate(cells) if "**Predict first.**" in cell.source]
    assert len(asked) >= (2 if name in GRADED else 1)
    for place in asked:
        following = next(cell for cell in cells[place + 1 :] if cell.cell_type == "code")
        assert following.source.startswith("my_guess = ") and not following.outputs, cells[place].source


def test_the_playgrounds_button_rests_once_the_lab_is_put_back() -> None:
    widgets = read("playground").metadata.widgets["application/vnd.jupyter.widget-state+json"].state.values()
    (button,) = [widget.state for widget in widgets if widget.model_name == "ButtonModel"]
    assert button.description == "Run" and button.disabled


# Their exercises.


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


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a lab that the lessons of this module share."""
    folder = tmp_path_factory.mktemp("lessons") / ".lab"
    with pytest.MonkeyPatch.context() as patch:
        forget_servers(patch)
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        yield folder
        lab.reset()


def execute(notebook: NotebookNode, lab_folder: Path, **variables: str) -> NotebookNode:
    """`notebook`, run by a kernel of its own in the folder of the lessons. Raises CellExecutionError."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_API")}
    client = NotebookClient(notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    return client.execute(env=environment | {"FLOWS_LAB_DIR": str(lab_folder)} | variables)


def runs(*flows: str) -> int:
    """Return how many runs of these flows the server has."""
    return rest.send(endpoints.count(endpoints.flow_runs(flow=flows)))


def text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


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


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("02_limits", {"queries": 6, "tried": [10]}),
        ("03_parallel_flow", {"count": 4, "naps": 4, "others": 4}),
    ],
)
def test_a_lesson_can_be_taken_again_in_the_same_kernel(
    name: str, parameters: dict[str, Any], lab_folder: Path
) -> None:
    """In another kernel on the same lab it is taken by the other tests here."""
    server.use()
    before = runs("main_etl")
    notebook = nbformat.v4.new_notebook()
    for time in range(2):
        cells = read(name).cells
        chosen = "\n".join(f"{key} = {value}" for key, value in parameters.items())
        cells.insert(2, nbformat.v4.new_code_cell(chosen))
        for cell in cells:
            cell.id = f"{time}-{cell.id}"
        notebook.cells += cells
    execute(notebook, lab_folder)
    assert [text(cell) for cell in code(notebook)].count("The lab is as you found it.\n") == 2
    assert not list((lab_folder / "lessons").iterdir())
    server.use()
    kept = {limit["tag"] for limit in rest.send(limit_endpoints.limits())}
    assert not [tag for tag in kept if tag.startswith(records.PREFIX)]
    assert runs("main_etl") == before
    assert not [flow["name"] for flow in rest.send(endpoints.flows(text=records.PREFIX))]


@pytest.mark.long
def test_a_new_lesson_leaves_nothing_behind_and_what_others_have_stays(lab_folder: Path) -> None:
    """What it made is found by its name, and what a name only contains, or an older flow, is not touched."""
    server.use()
    theirs = [rest.send(endpoints.create_flow(name)) for name in ("lessons of somebody", "my lesson")]
    rest.gather([endpoints.record_flow_run(flow["id"], "older", "COMPLETED") for flow in theirs])
    rest.call("POST", "work_pools/", {"name": "lesson-of-somebody", "type": "process"})
    limits.ensure("lesson-of-somebody", 7)
    sources = [
        "import lessons; lessons.begin()",
        "from prefect import flow\nfrom flows import limits\nfrom flows.api import rest",
        '@flow(name="lesson of tomorrow")\ndef tomorrow(): pass\ntomorrow()',
        '@flow(name="lessons of somebody")\ndef newer(): pass\nnewer()',
        'rest.call("POST", "work_pools/", {"name": "lesson-of-tomorrow", "type": "process"})',
        'limits.ensure("lesson-of-tomorrow", 1); limits.ensure("lesson-of-somebody", 1)',
        "lessons.end()",
    ]
    execute(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), lab_folder)
    server.use()
    flows = rest.send(endpoints.flows(text="lesson"))
    assert [flow["name"] for flow in flows] == ["lessons of somebody", "my lesson"]
    assert [runs(flow["name"]) for flow in flows] == [1, 1], "the older runs stay, and the newer one was the lesson's"
    pools = [pool["name"] for pool in rest.send(endpoints.work_pools())]
    assert "lesson-of-somebody" in pools and "lesson-of-tomorrow" not in pools
    kept = limits.read("lesson-of-somebody")
    assert kept and kept.limit == 7 and limits.read("lesson-of-tomorrow") is None
    mine = [endpoints.delete("flows", flow["id"]) for flow in theirs]
    mine += [endpoints.delete(kind, "lesson-of-somebody") for kind in ("work_pools", "concurrency_limits/tag")]
    rest.gather(mine)


@pytest.mark.long
def test_the_playground_starts_again_after_a_kernel_that_was_killed_while_it_played(lab_folder: Path) -> None:
    interrupted = read("playground")
    press = next(place for place, cell in enumerate(interrupted.cells) if "button.click()" in cell.source)
    del interrupted.cells[press:]
    killed = """threading.Thread(target=play, args=(list(queries.value), 3)).start()
lessons.wait_for(lambda: limits.read("lesson-play").active_slots == 3, "all slots to be taken")
os.kill(os.getpid(), signal.SIGKILL)"""
    begin = 'import os, signal; limits.ensure("lesson-play", 3)\n'
    interrupted.cells.append(nbformat.v4.new_code_cell(begin + killed))
    with pytest.raises(Exception, match="Kernel died"):
        execute(interrupted, lab_folder)
    server.use()
    left = limits.read("lesson-play")
    assert left and left.active_slots == 3, "the lesson after this one has nothing to put right"
    execute(read("playground"), lab_folder)
    assert limits.read("lesson-play") is None


@pytest.mark.long
def test_a_cell_that_takes_too_long_is_interrupted_and_an_error_of_the_kit_is_a_sentence(lab_folder: Path) -> None:
    server.use()
    flow = rest.send(endpoints.create_flow("made by a test"))["id"]
    endless = rest.send(endpoints.record_flow_run(flow, "endless", "RUNNING"))
    sources = [
        "import time; import cells, lessons; from flows import settings; cells.guard(); cells.LONGEST = 1",
        "time.sleep(60)",
        "time.sleep(0.5)",
        "time.sleep(0.7); print('not interrupted')",
        'lessons.wait_for(lambda: False, "rain", seconds=0.2)',
        'raise settings.CannotRun("Bring an umbrella.")',
        f"lessons.finished({endless['id']!r}, seconds=0.3)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    for cell in notebook.cells:
        cell.metadata["tags"] = ["raises-exception"]
    execute(notebook, lab_folder)
    rest.send(endpoints.delete("flows", flow))
    _, slow, _, quick, waits, kit, unended = notebook.cells
    assert text(slow).startswith("This cell was interrupted because it ran longer than 1 s. ")
    assert [output.ename for output in slow.outputs if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert text(quick) == "not interrupted\n", "the guard of an earlier cell goes on"
    assert re.match(r"Waiting for rain\.\n0 s have passed without rain\. .*Run the lesson again", text(waits))
    assert text(kit) == "Bring an umbrella.\n"
    assert text(unended).startswith("After 0 s the run endless is Running, with 0 task runs. ")


# Mistakes, in the lessons and in the kit.


class Mistake(NamedTuple):
    """`old` replaced by `new` in a lesson, or in a module of the kit; `lesson` has to turn red, and then `says` why."""

    lesson: str
    where: str
    old: str
    new: str
    says: str


MISTAKES = {
    "limit 20 in place of 3": Mistake(
        "02_limits", "", 'limits.ensure("lesson", limit)', 'limits.ensure("lesson", 20)',
        "assert on_server.limit == limit",
    ),
    "the tag dropped": Mistake(
        "02_limits", "", '@task(tags=["lesson"], task_run_name="query', '@task(task_run_name="query', "three seats free"
    ),
    "cleanup not waiting": Mistake(
        "03_parallel_flow",
        "",
        "        future.wait()\n    cleanup()\n    for",
        "        pass\n    cleanup()\n    for",
        "assert not list(staging.iterdir())",
    ),
    "wait_for left out": Mistake(
        "03_parallel_flow", "", "load.submit(wait_for=futures)", "load.submit()", "there is nothing to load"
    ),
    "the header left out": Mistake(
        "01_auth", "", '/admin/version", headers=header)', '/admin/version")', "the header does not carry"
    ),
    "the whole job's cleanup not in finally": Mistake(
        "03_parallel_flow", "", "    finally:\n        cleanup()",
        "    except ZeroDivisionError:\n        pass\n    cleanup()", "with 2 task runs",
    ),
    "the whole job without a tag": Mistake(
        "03_parallel_flow", "", '    tags=["database"],\n    task_run_name', "    task_run_name",
        'order["my_etl"] == order["main_etl"]',
    ),
    "the ends not counted in the line": Mistake(
        "04_rest_queries", "", "pd.Series(-1, index", "pd.Series(0, index", ".max() == line.max()"
    ),
    "the button not heard": Mistake(
        "playground", "", "button.on_click(run)", "pass", "IndexError"
    ),
    "the picture drawn at the end alone": Mistake(
        "playground", "", "            show(pages.run(started[0]))", "            pass", "len(grown) > 1"
    ),
    "the second slider not heard": Mistake(
        "02_limits", "", 'length.observe(moved, "value")', "pass", "the picture does not follow"
    ),
    "the page size ignored": Mistake(
        "04_rest_queries", "", '"limit": page_size, ', "", "pages_read == -(-counted // page_size)"
    ),
    "the kit sets another limit": Mistake(
        "02_limits", "api/limit_endpoints.py", '"concurrency_limit": limit}', '"concurrency_limit": 20}',
        "did not set the limit",
    ),
    "the kit's reset leaves the counter": Mistake(
        "02_limits", "limits.py", "(tag, kind), active_slots=0)", "(tag, kind))", "still counts taken slots"
    ),
    "the kit's job has no tag": Mistake(
        "03_parallel_flow", "prefect_flow.py", "tags=[limits.TAG]", "tags=[]", 'order["my_etl"] == order["main_etl"]'
    ),
    "the kit retries everything": Mistake(
        "03_parallel_flow", "prefect_flow.py", "    return warehouse.may_pass", "    return True or warehouse.may_pass",
        "was tried again",
    ),
    "the kit reads one page": Mistake(
        "04_rest_queries", "api/rest.py", "        if len(pages[-1]) < PAGE:", "        if True:", "== len(made)"
    ),
    "the kit sends no header": Mistake(
        "01_auth", "api/credentials.py", "if known.prefect_api_auth_string is not None:\n        return Sent",
        "if False:\n        return Sent", "KeyError: 'Authorization'",
    ),
    "the kit revokes nothing": Mistake(
        "01_auth", "lab/keys.py", "if holder != name}", "}", "a revoked key was let in"
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_turns_a_lesson_red(mistake: Mistake, lab_folder: Path, tmp_path: Path) -> None:
    notebook, variables = read(mistake.lesson), {}
    exercises = {place for tag in ("exercise", "check", "solution") for place in tagged(notebook, tag)}
    notebook.cells = [cell for place, cell in enumerate(notebook.cells) if place not in exercises]
    if mistake.where:
        for folder in ("flows", "scripts"):
            shutil.copytree(settings.PROJECT / folder, tmp_path / folder)
        module = tmp_path / "flows" / mistake.where
        assert module.read_text().count(mistake.old) == 1
        module.write_text(module.read_text().replace(mistake.old, mistake.new))
        variables = {"PYTHONPATH": str(tmp_path)}
    else:
        cells = [cell for cell in code(notebook) if mistake.old in cell.source and not cell.metadata.get("tags")]
        assert cells, "there is nothing to be mistaken about"
        for cell in cells[:1]:
            cell.source = cell.source.replace(mistake.old, mistake.new)
    with pytest.raises(CellExecutionError) as red:
        execute(notebook, lab_folder, **variables)
    assert mistake.says in re.sub(r"\x1b\[[\d;]*m", "", str(red.value)), "red for another reason"


# The last lesson and the monitor.


def first_page() -> None:
    """Open the monitor on its first page."""
    import live_page
    import runs_page

    live_page.interval()
    runs_page.show()


def page_of_a_run() -> None:
    """Open the monitor on the page of a run."""
    import live_page
    import run_page

    live_page.interval()
    run_page.show()


@pytest.mark.long
def test_the_last_lesson_ends_with_what_the_monitor_shows(
    lab_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same frames and the same charts, of the same runs on the same server."""
    server.use()
    limits.ensure(limits.TAG, 3)
    notebook = read("04_rest_queries")
    kept = tmp_path / "lesson.pickle"
    named = "(of_tag, chart.to_dict(), overview, body)"
    saved = f"import pickle\nwith open({str(kept)!r}, 'wb') as file:\n    pickle.dump({named}, file)"
    notebook.cells[-1] = nbformat.v4.new_code_cell(saved)  # the lesson's end would remove the runs
    execute(notebook, lab_folder)
    of_tag, chart, overview, body = pickle.loads(kept.read_bytes())
    drawn: dict[str, list[tuple[pd.DataFrame, dict[str, Any]]]] = {"run": [], "states": []}

    def kept_as_drawn(kind: str) -> Any:
        usual = getattr(charts, kind)

        def drawing(frame: pd.DataFrame, *options: Any) -> Any:
            made = usual(frame, *options)
            drawn[kind].append((frame, made.to_dict()))
            return made

        return drawing

    for kind in drawn:
        monkeypatch.setattr(charts, kind, kept_as_drawn(kind))
    monkeypatch.syspath_prepend(str(settings.PROJECT / "streamlit"))

    def shown(page: Any, **query: str | list[str]) -> AppTest:
        app = AppTest.from_function(page, default_timeout=60)
        for key, value in query.items():
            app.query_params[key] = value
        app.run()
        assert not app.exception
        return app

    shown(page_of_a_run, id=of_tag["flow_run_id"].iloc[0])
    ((frame, made),) = drawn["run"]
    pd.testing.assert_frame_equal(frame, of_tag)
    assert made == chart

    first = shown(first_page, flow="main_etl", since="7 days").session_state["runs"].page
    assert len(first.flow_runs) >= 2
    for name in ("flow_runs", "task_runs", "limits"):
        mine, theirs = (getattr(page, name) for page in (overview, first))
        growing = ["waited_seconds", "ran_seconds"] if name == "task_runs" else []  # one that is active goes on
        pd.testing.assert_frame_equal(mine.drop(columns=growing), theirs.drop(columns=growing))
    ((frame, made),) = drawn["states"]
    drawn_there = charts.states(overview.states, overview.start, overview.read_at)
    assert made["description"] == drawn_there.to_dict()["description"]

    failed = shown(first_page, state=["Failed", "Crashed"]).session_state["runs"].page.flow_runs
    found = rest.rows(rest.Request("POST", "flow_runs/filter", body))
    assert len(failed) >= 2 and set(failed["flow_run_id"]) == {run["id"] for run in found}


# In the browser.


@pytest.fixture
def jupyter(lab_folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab on a copy of the lessons, and the folder of the copy."""
    shutil.copytree(FOLDER, tmp_path / "notebooks")
    (tmp_path / "notebooks" / "02_limits.ipynb").write_text(nbformat.writes(without_outputs(read("02_limits"))))
    port = prefect_server.free_port(8888)
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    process = subprocess.Popen(
        [*command, f"--ServerApp.port={port}", f"--ServerApp.root_dir={tmp_path}"],
        env=os.environ | {"FLOWS_LAB_DIR": str(lab_folder), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        eventually(lambda: answers(f"{url}/api"))
        yield url, tmp_path / "notebooks"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    for cell in code(notebook):
        cell.outputs, cell.execution_count = [], None
    return notebook


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url).status_code == 200
    return False


@pytest.mark.long
def test_jupyterlab_runs_a_lesson_and_the_slider_moves_its_timeline(
    jupyter: tuple[str, Path], browser: Browser
) -> None:
    url, folder = jupyter
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.goto(url)
    expect(page.get_by_role("tab", name="01_auth.ipynb")).to_be_visible(timeout=60_000)
    page.goto(f"{url}/lab/tree/notebooks/02_limits.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    saved = folder / "02_limits.ipynb"

    def ended() -> bool:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1_000)
        return "The lab is as you found it." in saved.read_text() and saved.read_text().rstrip().endswith("}")

    eventually(ended, 200)
    done = nbformat.read(saved, 4)
    assert not [output for cell in code(done) for output in cell.outputs if output.output_type == "error"]
    assert [cell.execution_count for cell in code(done)] == list(range(1, len(code(done)) + 1))
    picture = page.locator(".widget-html img")
    handle = page.locator(".widget-slider .noUi-handle").first
    for _ in range(100):
        if handle.count():
            break
        page.locator(".jp-Notebook").hover()
        page.mouse.wheel(0, -400)
        page.wait_for_timeout(50)
    expect(picture).to_have_attribute("alt", "20 queries of 1.0 s under a limit of 3 take 7.0 s.")
    before = picture.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight")
    expect(picture).to_have_attribute("alt", "20 queries of 1.0 s under a limit of 4 take 5.0 s.", timeout=20_000)
    assert picture.get_attribute("src") != before
    page.close()
