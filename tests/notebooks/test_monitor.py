"""The last lesson and the monitor show the same."""

import pickle
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from support.notebooks import execute, prose, read, solution, tagged

from flows import limits, settings
from flows.api import rest, server
from flows.monitor import charts


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


def test_the_lesson_s_table_has_each_part_of_the_app_and_each_section() -> None:
    """The parts are the titles of the pages, the headings on them, and what can be folded out."""
    text = prose(read("04_rest_queries"))
    section, *_ = text.partition("## 11. Which section makes which part")[2].partition("\n## ")
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    named = {name for shown, _ in rows for name in re.findall(r"\*\*(.+?)\*\*", shown)}
    code = "\n".join(file.read_text() for file in (settings.PROJECT / "streamlit").glob("*.py"))
    parts = re.findall(r'st\.Page\(.*title="([^"]+)"', code) + re.findall(r'expander\("([^"]+)"', code)
    parts += re.findall(r'"#{4,5} (?:\{[^}]*\} )?([^"{]+)"', code)
    assert len(parts) >= 14 and named == set(parts)
    mentioned = {number for _, made in rows for number in re.findall(r"section (\d+)", made)}
    assert mentioned == set(re.findall(r"^## (\d+)\. ", text, re.MULTILINE)) - {"11"}
    assert all(made.startswith(("in section", "not here")) for _, made in rows[2:])


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
    answered = solution(notebook.cells[tagged(notebook, "solution")[-1]])  # the last exercise's: `body`
    saved = f"{answered}\nimport pickle\nwith open({str(kept)!r}, 'wb') as file:\n    pickle.dump({named}, file)"
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
    selected = rest.rows(rest.Request("POST", "flow_runs/filter", body))
    assert len(failed) >= 2 and set(failed["flow_run_id"]) == {run["id"] for run in selected}
