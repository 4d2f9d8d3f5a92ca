"""A learner's guesses are compared with what was measured, and kept; so are the exercises that are done."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.notebooks import NAMES, check_guesses, code, execute, plant_guesses, read, small, tagged

import guesses
import learner
import lessons
import progress
from flows import lab, settings


@pytest.fixture(autouse=True)
def lab_without_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / ".lab"))
    guesses.forget_first()


def said(capsys: pytest.CaptureFixture[str], *arguments: Any, **named: Any) -> str:
    guesses.compare("02 it", *arguments, **named)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("guess", "measured", "right", "sentence"),
    [
        (3, 3, True, "Your guess was right: it was 3."),
        ("3", np.int64(3), True, "Your guess was right: it was 3."),
        (12, 3, False, "You guessed 12, and it was 3: 9 too high."),
        (2, 3, False, "You guessed 2, and it was 3: 1 too low."),
        (7, 5.6, False, "You guessed 7.0 s, and it was 5.6 s: 25 % too high."),
        (5, 5.6, True, "You guessed 5.0 s, and it was 5.6 s: 11 % too low. That is close enough to count as right."),
        (1e300, 5.6, False, "You guessed 1e+300, and it was 5.6 s: more than ten times too high."),
        ("Yes", True, True, "Your guess was right: it was yes."),
        (False, True, False, "You guessed no, and it was yes."),
        ("no", np.bool_(False), True, "Your guess was right: it was no."),
        ("Scheduled", "Scheduled", True, "Your guess was right: it was Scheduled."),
        (403, "401", False, "You guessed 403, and it was 401."),
        ((12, 0.8), 3, False, "You guessed 12, and it was 3: 9 too high. You were 80 % sure."),
    ],
)
def test_a_guess_is_compared_with_what_was_measured(guess: Any, measured: Any, right: bool, sentence: str) -> None:
    result, told = guesses.judge(guess, measured, unit="s")
    assert (result.right, told) == (right, sentence)


@pytest.mark.parametrize("guess", [None, ..., "", " … ", (None, 0.8)])
def test_an_empty_guess_is_asked_for_and_not_kept(guess: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, guess, 3) == f"{guesses.NONE}\n"
    assert learner.read() == learner.Record()


@pytest.mark.parametrize(
    ("guess", "measured", "asked"),
    [
        *[(guess, 3, "a number such as 3") for guess in ("many", float("nan"), 10**400, [3], {}, True, object())],
        *[(guess, True, 'for "yes" or "no"') for guess in ("perhaps", 1, [])],
        *[(guess, "more", 'none of "less", "more"') for guess in ("much", 5)],
        ([1], "more", "a word"),
        ((3, 5), 5.6, "write it with a point"),
        ((3, "very"), 3, "is not a confidence"),
        (7, {"here": 1, "there": True}, 'Write {"here": …, "there": …}'),
    ],
)
def test_a_guess_that_makes_no_sense_gets_a_sentence_and_may_be_mended(
    guess: Any, measured: Any, asked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    among = ("less", "more") if measured == "more" else ()
    if guess == {}:  # as if none had been made
        asked = guesses.NONE
    (line,) = said(capsys, guess, measured, among=among).splitlines()
    assert asked in line
    assert learner.read() == learner.Record()
    if guess != {} and measured == 3:
        assert "does not count" not in said(capsys, 3, 3)


def test_the_parts_of_a_guess_count_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"refused": 0, "seconds": 5.6, "again": False}
    lines = said(capsys, {"refused": (0, 0.9), "seconds": None, "again": "perhaps"}, measured, unit="s").splitlines()
    assert lines[0] == "You made no guess for seconds."
    assert lines[1] == "refused: Your guess was right: it was 0. You were 90 % sure."
    assert lines[2].startswith("again: 'perhaps' was not counted")
    assert {name: guess.confidence for name, guess in learner.read().guesses.items()} == {"02 it: refused": 0.9}
    assert said(capsys, dict.fromkeys(measured), measured) == f"{guesses.NONE}\n"


def test_only_the_guess_before_the_measurement_counts_until_the_lesson_begins_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said(capsys, 12, 3)
    assert "does not count" not in said(capsys, 12, 3), "the cell was only run again"
    assert "does not count" in said(capsys, 3, 3) and not learner.read().guesses["02 it"].right
    guesses.forget_first()
    assert "does not count" not in said(capsys, 3, 3) and learner.read().guesses["02 it"].right
    guesses.compare("02 other", None, 3)
    guesses.compare("02 other", 3, 3)
    assert "02 other" not in learner.read().guesses


def test_the_summary_counts_guesses_and_exercises_and_draws_a_line_if_confidences_were_given() -> None:
    before = progress.summary(lessons.picture)
    assert "You have made no guesses yet." in before.text and "<img" not in before.page
    for name, guess, measured in (("02 a", (12, 0.8), 10), ("02 b", ("yes", 0.8), True), ("03 c", (1, 0.5), 1)):
        guesses.compare(name, guess, measured)
    learner.keep_exercise("predictions")
    learner.keep_exercise("predictions")
    shown = progress.summary(lessons.picture)
    assert "02_limits 1 of 3 (still to do: 2 and 3), 03_parallel_flow 0 of 3" in shown.text
    assert "2 of your 3 guesses were right. Your numbers were typically off by 10 %." in shown.text
    assert "you were 70 % sure on average, and 67 % were right" in shown.text
    assert 'alt="' in shown.page
    assert "50 % sure: 1 of 1 right; 80 % sure: 1 of 2 right." in shown.page.partition('alt="')[2]


def test_the_exercises_of_a_lesson_are_those_that_its_checks_grade() -> None:
    exercises = {lesson.name: list(lesson.exercises) for lesson in progress.read()}
    assert list(exercises) == NAMES
    for name in NAMES:
        assert len(exercises[name]) == len(tagged(read(name), "check"))
        assert all(re.match(rf"{number}: \w+", title) for number, title in enumerate(exercises[name], 1))


@pytest.mark.parametrize("left", ["", "{", '{"guesses": {"02 it": 3}}', "[]"])
def test_a_record_that_cannot_be_read_stops_no_lesson(left: str, capsys: pytest.CaptureFixture[str]) -> None:
    learner.folder().mkdir(parents=True)
    (learner.folder() / "learner.json").write_text(left)
    assert progress.summary(lessons.picture)
    assert "right" in said(capsys, 3, 3) and learner.read().guesses


def test_a_record_that_cannot_be_written_stops_no_lesson(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".lab").write_text("no folder")
    assert "This will be missing from your summary. The lab's folder" in said(capsys, 3, 3)


def test_the_record_outlives_a_reset_of_the_lab(tmp_path: Path) -> None:
    learner.keep_exercise("predictions")
    (tmp_path / ".lab" / "logs").mkdir()
    lab.reset()
    assert learner.read().exercises == ["predictions"]
    assert [path.name for path in (tmp_path / ".lab").iterdir()] == ["learner"]


@pytest.mark.parametrize("name", NAMES)
def test_each_guess_of_a_lesson_is_compared_before_the_next_one_is_asked_for(name: str) -> None:
    waiting, named = "", []
    for cell in code(read(name)):
        if cell.source.startswith("my_guess = "):
            assert not waiting, f"the guess of {waiting} was never read"
            waiting = cell.id
        for call in re.findall(r'guesses\.compare\("([^"]+)", my_guess, ', cell.source):
            assert waiting, "there is no guess to compare"
            waiting = ""
            named.append(call)
    assert not waiting and len(set(named)) == len(named) > 0
    # The summary finds them by the lesson's number, and the parts of a guess follow a colon.
    assert {call.partition(" ")[:2] for call in named} == {(name.split("_")[0], " ")}


@pytest.mark.long
def test_the_playground_takes_empty_wrong_and_right_guesses(lab_folder: Path) -> None:
    """The other lessons do so where their exercises are tested."""
    notebook = small("playground")
    plant_guesses(notebook)
    execute(notebook, lab_folder, PYTHONPATH=str(settings.PROJECT / "tests"))
    check_guesses(notebook)
