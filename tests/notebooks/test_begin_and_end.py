"""What a lesson begins and ends with: it leaves nothing behind, even if it is interrupted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
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


@pytest.mark.long
def test_a_lesson_that_is_still_open_elsewhere_is_named(lab_folder: Path) -> None:
    """It keeps what both have made; afterwards the lab is as it was."""
    sources = ["import lessons; lessons.begin()", "lessons.end()"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    open_one = "import lessons; lessons.begin(); print('begun', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", open_one],
        cwd=FOLDER,
        env=os.environ | {"FLOWS_LAB_DIR": str(lab_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout and "begun\n" in iter(other.stdout.readline, "")
        begun, ended = execute(nbformat.v4.new_notebook(cells=cells), lab_folder).cells
        other.kill()
    assert "Another lesson is still open" in text(begun) and "Another lesson is still open" in text(ended)
    assert "as you found it" not in text(ended)
    begun, ended = execute(nbformat.v4.new_notebook(cells=cells), lab_folder).cells
    assert "still open" not in text(begun) and text(ended).endswith("The lab is as you found it.\n")


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
        "import time; import cells, lessons; from flows import settings; cells.guard(); cells.LONGEST = 1",
        "time.sleep(60)",
        "time.sleep(0.5)",
        "time.sleep(0.7); print('not interrupted'); cells.LONGEST = 100",
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
