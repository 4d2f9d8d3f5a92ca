"""A mistake in a lesson, or in the kit, turns a lesson red."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from nbclient.exceptions import CellExecutionError
from support.notebooks import code, execute, small, tagged

from flows import settings


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
        "02_limits", "limits.py", '"concurrency_limit": limit}', '"concurrency_limit": 20}',
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
        "04_rest_queries", "api/rest.py", "        if len(pages[-1]) < size:", "        if True:", "== len(made)"
    ),
    "the kit sends no header": Mistake(
        "01_auth", "api/credentials.py", "if known.prefect_api_auth_string is not None:\n        return Sent",
        "if False:\n        return Sent", "KeyError: 'Authorization'",
    ),
    "the kit revokes nothing": Mistake(
        "01_auth", "lab/keys.py", "keys.pop(name, None)", "keys.get(name)", "a revoked key was let in"
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.weekly  # as are the changes that scripts/mutate_lessons.py makes
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_turns_a_lesson_red(mistake: Mistake, lab_folder: Path, tmp_path: Path) -> None:
    notebook, variables = small(mistake.lesson), {}
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
        cells = [cell for cell in code(notebook) if mistake.old in cell.source]
        assert cells, "there is nothing to be mistaken about"
        for cell in cells[:1]:
            cell.source = cell.source.replace(mistake.old, mistake.new)
    with pytest.raises(CellExecutionError) as red:
        execute(notebook, lab_folder, **variables)
    assert mistake.says in re.sub(r"\x1b\[[\d;]*m", "", str(red.value)), "red for another reason"
