"""How far the learner has come: the exercises that are done, and how the guesses did, over all lessons."""

import html
import json
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import tomli

import learner
from flows import settings


@dataclass(frozen=True)
class Lesson:
    """What the learner has done in a lesson: the titles of its exercises, and whether each is done; the guesses."""

    name: str
    exercises: dict[str, bool]
    guesses: list[learner.Guess]


@dataclass(frozen=True)
class Summary:
    """The progress over all lessons, with a picture of the guesses' confidences if there are any."""

    lessons: list[Lesson]
    picture: Any

    @property
    def text(self) -> str:
        """The progress in sentences, one a line."""
        return "\n".join(sentences(self.lessons) + ([self.picture.alt] if self.picture else []))

    @property
    def page(self) -> str:
        """The progress as a part of a page: a table, sentences, and the picture."""
        spoken = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.text.splitlines()[1:])
        return _table(self.lessons) + spoken + (self.picture.html if self.picture else "")

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.page, "text/plain": self.text}


def summary(draw: Callable[[alt.TopLevelMixin], Any]) -> Summary:
    """Return the progress as a notebook shows it; `draw` makes a picture of a chart."""
    lessons = read()
    chart = calibration([guess for lesson in lessons for guess in lesson.guesses])
    return Summary(lessons, draw(chart) if chart else None)


def read() -> list[Lesson]:
    """Return what the learner has done in each lesson, in the order of the lessons."""
    record, lessons = learner.read(), []
    for path in sorted((settings.PROJECT / "notebooks").glob("*.ipynb")):
        done = {title: check in record.exercises for title, check in _exercises(json.loads(path.read_text())["cells"])}
        number = path.stem.partition("_")[0]
        guesses = [guess for name, guess in record.guesses.items() if name.partition(" ")[0] == number]
        lessons.append(Lesson(path.stem, done, guesses))
    return lessons


def calibration(guesses: list[learner.Guess]) -> alt.LayerChart | None:
    """Return a chart of how many guesses were right by how sure the learner was, or None without a confidence."""
    sure = [(round(guess.confidence, 1), guess.right) for guess in guesses if guess.confidence is not None]
    if not sure:
        return None
    shares = pd.DataFrame(sure, columns=["sure", "right"]).groupby("sure")["right"].agg(["mean", "sum", "count"])
    rows = shares.to_dict("index").items()
    parts = [f"{_percent(confidence)} sure: {row['sum']} of {row['count']} right" for confidence, row in rows]
    ideal = pd.DataFrame({"sure": [0.0, 1.0], "mean": [0.0, 1.0]})
    x = alt.X("sure", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", title="how sure you were"))
    y = alt.Y("mean", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%", title="how many were right"))
    line = alt.Chart(ideal).mark_line(strokeDash=[6, 4], color="#666").encode(x=x, y=y)
    yours = alt.Chart(shares.reset_index()).mark_line(point=alt.OverlayMarkDef(size=80)).encode(x=x, y=y)
    shown = f"How sure you were, and how many guesses were right. {'; '.join(parts)}."
    described = f"{shown} On the dashed line, you would be right as often as you think."
    return alt.layer(line, yours, width=260, height=260, description=described)


def sentences(lessons: list[Lesson]) -> list[str]:
    """Return the progress in sentences, the first of which is about the exercises."""
    guesses = [guess for lesson in lessons for guess in lesson.guesses]
    of_guesses = f"{sum(guess.right for guess in guesses)} of your {len(guesses)} guesses were right."
    if off := _typically_off(guesses):
        of_guesses += f" Your numbers were typically off by {off}."
    if sure := [(guess.confidence, guess.right) for guess in guesses if guess.confidence is not None]:
        confidence, right = (_percent(statistics.mean(values)) for values in zip(*sure, strict=True))
        of_guesses += f" Where you said how sure you were, you were {confidence} sure on average,"
        of_guesses += f" and {right} were right."
    exercises = ", ".join(f"{lesson.name} {done(lesson)}" for lesson in lessons if lesson.exercises)
    kept = "This is kept on your machine only. Resetting the lab leaves it there; to forget it, delete .lab/learner."
    return [f"Exercises done: {exercises}.", of_guesses if guesses else "You have made no guesses yet.", kept]


def done(lesson: Lesson) -> str:
    """Return how many exercises of `lesson` are done, and which are left to do, if only some are."""
    todo = [title.partition(":")[0] for title, right in lesson.exercises.items() if not right]
    if not lesson.exercises:
        return "none to do"
    left = f" (still to do: {' and '.join(todo)})" if 0 < len(todo) < len(lesson.exercises) else ""
    return f"{len(lesson.exercises) - len(todo)} of {len(lesson.exercises)}{left}"


def _exercises(cells: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the title of each exercise among the `cells` of a notebook, and the name of its check."""
    title = ""
    for cell in cells:
        source = "".join(cell["source"])
        if heading := re.search(r"^### Exercise (.+)$", source, re.M):
            title = heading[1]
        if "incidents.draw(" in source:
            names = tomli.loads((settings.PROJECT / "notebooks" / "incidents.toml").read_text())
            yield from ((f"{number}: {name}", name) for number, name in enumerate(names, 1))
        elif "check" in cell["metadata"].get("tags", []) and (check := re.search(r"^checks\.(\w+)\(", source, re.M)):
            yield title or check[1], check[1]


def _table(lessons: list[Lesson]) -> str:
    titles = ["lesson", "exercises done", "guesses that were right", "your numbers were typically off by"]
    rows = [
        [
            lesson.name,
            done(lesson),
            f"{sum(guess.right for guess in lesson.guesses)} of {len(lesson.guesses)}"
            if lesson.guesses
            else "none made",
            _typically_off(lesson.guesses) or "no numbers",
        ]
        for lesson in lessons
    ]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows)
    caption = "<caption>What you have done so far</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _typically_off(guesses: list[learner.Guess]) -> str:
    """Return the median distance of the guesses that are numbers, empty if none is."""
    off = [guess.off for guess in guesses if guess.off is not None]
    return _percent(statistics.median(off)) if off else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
