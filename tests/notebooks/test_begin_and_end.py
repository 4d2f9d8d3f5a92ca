"""What a lesson begins and ends with: it leaves nothing behind, even if it is interrupted."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from support.notebooks import FOLDER, code, execute, read, small, text

import exercises
import records
from flows import limits
from flows.api import endpoints, rest, server


def runs(*flows: str) -> int:
    """Return how many runs of these flows the server has."""
    return rest.send(endpoints.count(endpoints.flow_runs(flow=flows)))


@pytest.mark.long
@pytest.mark.weekly
@pytest.mark.parametrize("name", ["02_limits", "03_parallel_flow"])
def test_a_lesson_can_be_taken_again_in_the_same_kernel(name: str, lab_folder: Path) -> None:
    """In another kernel on the same lab it is taken by the other tests here."""
    server.use()
    before = runs("main_etl")
    notebook = nbformat.v4.new_notebook()
    for time in range(2):
        cells = small(name).cells
        for cell in cells:
            cell.id = f"{time}-{cell.id}"
        notebook.cells += cells
    execute(notebook, lab_folder)
    assert [text(cell).endswith("The lab is as you found it.\n") for cell in code(notebook)].count(True) == 2
    assert not list((lab_folder / "lessons").iterdir())
    server.use()
    kept = {limit["tag"] for limit in rest.send(endpoints.limits())}
    assert not [tag for tag in kept if tag.startswith(records.PREFIX)]
    assert runs("main_etl") == before
    assert not [flow["name"] for flow in rest.send(endpoints.flows(text=records.PREFIX))]


@pytest.mark.long
def test_a_new_lesson_leaves_nothing_behind_and_what_others_have_stays(lab_folder: Path) -> None:
    """All whose name begins with the prefix is removed, unless it is older; a name that only contains it stays."""
    server.use()
    theirs = [rest.send(exercises.create_flow(name)) for name in ("lessons of somebody", "my lesson")]
    rest.gather([exercises.record_flow_run(flow["id"], "older", "COMPLETED") for flow in theirs])
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
    pools = [pool["name"] for pool in rest.call("POST", "work_pools/filter", {})]
    assert "lesson-of-somebody" in pools and "lesson-of-tomorrow" not in pools
    kept = limits.read("lesson-of-somebody")
    assert kept and kept.limit == 7 and limits.read("lesson-of-tomorrow") is None
    mine = [endpoints.delete("flows", flow["id"]) for flow in theirs]
    mine += [endpoints.delete(kind, "lesson-of-somebody") for kind in ("work_pools", "concurrency_limits/tag")]
    rest.gather(mine)


@contextlib.contextmanager
def opened(lesson: str, lab_folder: Path, then: str = "") -> Iterator[None]:
    """Until the block ends, let another process have this `lesson` open, which then executes `then`."""
    code = f"import lessons; lessons.begin(); print('opened', flush=True)\n{then}\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=FOLDER,
        env=os.environ | {"FLOWS_LAB_DIR": str(lab_folder), "JPY_SESSION_NAME": f"/somewhere/{lesson}.ipynb"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        try:
            assert other.stdout and "opened\n" in iter(other.stdout.readline, "")
            yield
        finally:
            other.kill()


def cells(*sources: str) -> NotebookNode:
    """Return a notebook whose cells have these `sources`, and go on after an error."""
    tags = {"tags": ["raises-exception"]}
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, metadata=tags) for source in sources])


def error(cell: NotebookNode) -> str:
    """Return what the learner reads of the error in `cell`, which must have one."""
    (shown,) = [output.traceback for output in cell.outputs if output.output_type == "error"]
    return "\n".join(shown)


@pytest.mark.long
def test_a_lesson_that_is_still_open_elsewhere_is_named_and_the_same_one_does_not_begin_twice(lab_folder: Path) -> None:
    """What both have made is kept; afterwards the lab is as it was."""
    sources = ["import lessons; lessons.begin()", 'lessons.wait_for(lambda: False, "rain", 0.1)', "lessons.end()"]
    named = "02_limits is still open; closing a tab does not end a lesson."
    with opened("02_limits", lab_folder):
        begun, waits, ended = execute(cells(*sources), lab_folder).cells
        twice, *_ = execute(cells(sources[0]), lab_folder, JPY_SESSION_NAME="/here/02_limits-Copy1.ipynb").cells
    assert named in text(begun) and text(begun).endswith("Ready.\n")
    assert named in error(waits) and named in text(ended) and "as you found it" not in text(ended)
    assert error(twice).startswith("This lesson is open twice, and each of the two would change") and named in error(
        twice
    )
    begun, _, ended = execute(cells(*sources), lab_folder).cells
    assert "still open" not in text(begun) and text(ended).endswith("The lab is as you found it.\n")


@pytest.mark.long
def test_a_lesson_beside_one_that_restarts_the_server_explains_its_errors_and_goes_on(
    lab_folder: Path, tmp_path: Path
) -> None:
    """The other one asks for a password from the middle of a cell on, and never ends."""
    begun, restarted = tmp_path / "begun", tmp_path / "restarted"
    sources = [
        "import lessons; lessons.begin()",
        """import pathlib; from flows.api import credentials; from prefect import flow, task
header = credentials.header()
@task(task_run_name="nap")
def nap(): pass
@flow(name="lesson nap")
def naps(): nap.submit().result()
naps()""",
        f"""pathlib.Path({str(begun)!r}).touch()
lessons.wait_for(pathlib.Path({str(restarted)!r}).exists, "the other lesson", 100)
naps()""",
        'header["Authorization"]',
        "print(lessons.finished(naps(return_state=True).state_details.flow_run_id).task_runs['state'].to_list())",
        "lessons.end()",
    ]
    other = f"""from pathlib import Path
lessons.wait_for(Path({str(begun)!r}).exists, "the cell", 100)
lessons.guarded("basic")
Path({str(restarted)!r}).touch()"""
    named = "01_auth is still open; closing a tab does not end a lesson."
    with opened("01_auth", lab_folder, other):
        _, quiet, refused, old, again, ended = execute(cells(*sources), lab_folder).cells
        assert server.read_lab()["auth"] == "basic", "the end of a lesson must not take the other one's server away"
    assert not quiet.outputs
    assert error(refused).startswith("The server did not do what this cell asked for. The lab's server now checks its")
    assert named in error(refused) and "Traceback" not in error(refused)
    assert "KeyError" in error(old) and text(old).startswith("This may be the reason: ") and named in text(old)
    assert text(again) == "['Completed']\n", "the next cell begins with the new credentials"
    assert named in text(ended)
    (begun,) = execute(cells(sources[0]), lab_folder).cells
    assert text(begun).endswith("Ready.\n") and server.read_lab()["auth"] == "none"


@pytest.mark.long
def test_the_playground_starts_again_after_its_end_and_after_a_kernel_that_was_killed_while_it_played(
    lab_folder: Path,
) -> None:
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
    assert left and left.active_slots, "the lesson after this one has nothing to put right"  # one may have ended
    again = read("playground")
    press = "queries.value = (); button.click(); print(shown.value)"
    sources = [press, press.replace("()", "names[:1]", 1), "slots.value, longer.value = 6, 3"]
    sources += [press.replace("()", "names[:6]", 1), "print(button.disabled); lessons.end()"]
    again.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    execute(again, lab_folder)
    none, one, _, six, ended = map(text, again.cells[-5:])
    assert "Choose at least one query." in none and "The limit held: at most 1 ran" in one
    assert "failed: too many connections for role" in six
    assert ended.startswith("False\n") and ended.endswith("The lab is as you found it.\n")
    assert limits.read("lesson-play") is None


@pytest.mark.long
def test_a_cell_that_takes_too_long_is_interrupted_and_an_error_of_the_kit_is_a_sentence(lab_folder: Path) -> None:
    server.use()
    flow = rest.send(exercises.create_flow("made by a test"))["id"]
    endless = rest.send(exercises.record_flow_run(flow, "endless", "RUNNING"))
    sources = [
        "import time; import cells, lessons; from flows import settings; cells.guard(); cells.LONGEST = 4",
        "time.sleep(60)",
        "time.sleep(2.5)",
        "time.sleep(2.5); print('not interrupted'); cells.LONGEST = 100",
        'lessons.wait_for(lambda: False, "rain", seconds=0.2)',
        'raise settings.CannotRun("Bring an umbrella.")',
        f"lessons.finished({endless['id']!r}, seconds=0.3)",
    ]
    notebook = execute(cells(*sources), lab_folder)
    rest.send(endpoints.delete("flows", flow))
    _, slow, _, quick, waits, kit, unended = notebook.cells
    assert text(slow).startswith("This cell was interrupted because it ran longer than 4 s. ")
    assert [output.ename for output in slow.outputs if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert text(quick) == "not interrupted\n", "the guard of an earlier cell goes on"
    assert text(waits) == "Waiting for rain.\n"
    assert re.match(r"0 s have passed without rain\. .*Run the lesson again", error(waits))
    assert error(kit) == "Bring an umbrella."
    assert error(unended).startswith("After 0 s the run endless is Running, with 0 task runs. ")
