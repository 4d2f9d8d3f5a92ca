"""Changes of the lessons' code at random: what is changed, and that a change is noticed."""

import json
from pathlib import Path

import mutate_lessons
import pytest
from support.notebooks import FOLDER, GRADED, code, read

import guesses
import learner

SOURCE = """@task(tags=["database"], retries=2)
def count():
    return ask(0.5).result()
while count():
    time.sleep(1)
"""


def test_each_kind_of_change_is_made_once_for_each_place() -> None:
    made = dict(mutate_lessons.mutations(SOURCE))
    assert set(made) == {
        "without @task(tags=['database'], retries=2)",
        "without return ask(0.5).result()",
        'without tags in @task(tags=["database"], retries=2)',
        "wait in place of result in return ask(0.5).result()",
        '3 in place of 2 in @task(tags=["database"], retries=2)',
        "1.5 in place of 0.5 in return ask(0.5).result()",
        "without while count():",
        "without time.sleep(1) in a loop that waits",
        "2 in place of 1 in time.sleep(1)",
    }
    assert made['without tags in @task(tags=["database"], retries=2)'].startswith("@task(retries=2)\ndef count")
    idle = {what for what in made if mutate_lessons.why_idle(mutate_lessons.Mutation(0, what, "", False))}
    assert idle == {
        "without time.sleep(1) in a loop that waits",
        "2 in place of 1 in time.sleep(1)",
        '3 in place of 2 in @task(tags=["database"], retries=2)',
    }
    assert "def count():\n    pass\n" in made["without return ask(0.5).result()"]
    assert "ask(0.5).wait()\n" in made["wait in place of result in return ask(0.5).result()"]


@pytest.mark.parametrize("futures, matters", [("[nap.submit() for _ in range(3)]", False), ("futures", True)])
def test_how_a_flow_waits_matters_if_it_keeps_the_futures(futures: str, matters: bool) -> None:
    made = mutate_lessons.mutations(f"for future in {futures}:\n    future.wait()\n")
    (swapped,) = [mutate_lessons.Mutation(0, *one, False) for one in made if one[0].startswith("result in place of")]
    assert bool(mutate_lessons.why_idle(swapped)) is not matters


def test_a_lesson_s_code_and_solutions_are_changed_and_not_its_parameters() -> None:
    for name in GRADED:
        notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
        possible = list(mutate_lessons.of_lesson(notebook))
        tags = {tag for change in possible for tag in notebook["cells"][change.cell]["metadata"].get("tags", [])}
        assert len(possible) > 50 and "solution" in tags and not tags & {"parameters", "exercise", "check"}


def test_what_the_learner_has_done_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored summary is compared with one of a learner who did an exercise, and said how sure he or she was."""
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / ".lab"))
    learner.keep_exercise("predictions")
    learner.keep_guess("02 it", guesses.judge((3, 0.8), 3)[0])
    notebook = read("playground")
    end = code(notebook)[-1]
    end.source = "import lessons, progress\nprogress.summary(lessons.picture)"
    end.outputs = [output for output in end.outputs if "data" in output]
    unchanged = mutate_lessons.Mutation(0, "nothing", end.source, False)
    assert not mutate_lessons.is_noticed("playground", notebook | {"cells": [end]}, unchanged)


@pytest.mark.long
@pytest.mark.weekly
def test_a_change_is_noticed_if_it_makes_a_difference(lab_folder: Path) -> None:
    """The playground without its limit, and as it is."""
    notebook = json.loads((FOLDER / "playground.ipynb").read_text())
    possible = list(mutate_lessons.of_lesson(notebook))
    dropped = next(change for change in possible if change.what.startswith("without limits.ensure('lesson-play'"))
    assert mutate_lessons.is_noticed("playground", notebook, dropped)
    unchanged = dropped._replace(source="".join(notebook["cells"][dropped.cell]["source"]))
    assert not mutate_lessons.is_noticed("playground", notebook, unchanged)
