"""The incidents of a lesson: each can be mended, none is over by itself, and what was destroyed is told."""

from pathlib import Path

import nbformat
import pytest
from support.notebooks import code, execute, read, text
from support.waiting import eventually

import incidents
import lessons
import progress
import records
import shop
from flows import lab, limits
from flows.api import endpoints, rest, server
from flows.lab import keys

DESTROYED = ["limit of the tag 'lesson-shop-others'", "slot of the task run 'import of the others'"]
DESTROYED += ["key of 'lesson-shop-others'", "connection limit of the database role 'etl'"]
# By incident, what belongs to a task that runs.
ALSO = {
    "leaked_slot": ["slot of the task run 'orders of today'"],
    "drifted_counter": ["slot of the task run 'invoices of today'"],
    "taken_connections": ["database session 'lesson-shop-dashboard'", "slot of the task run 'lesson-shop-dashboard'"],
    "hanging_query": ["database session 'lesson-shop-count'", "slot of the task run 'lesson-shop-count'"],
}


@pytest.fixture
def lesson(copied_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a lesson in this process, on a lab of its own."""
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    lessons.begin()


def reset_everything() -> None:
    """End everything that the shop has in the database, free all its slots, replace its limits and revoke its keys."""
    shop.sql("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name like 'lesson-shop%'")
    shop.sql("alter role etl connection limit 50")
    tags = [limit["tag"] for limit in rest.send(endpoints.limits())]
    for tag in (tag for tag in tags if tag.startswith(shop.SHOP)):
        limits.reset(tag)
        limits.ensure(tag, 100)
    for holder in (holder for holder in keys.bearer() if holder.startswith(shop.SHOP)):
        keys.revoke(holder)


@pytest.mark.long
def test_a_solution_mends_nothing_is_mended_by_itself_and_resetting_everything_destroys(
    lesson: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def verdict(incident: incidents.Incident) -> str:
        capsys.readouterr()
        incident.check()
        return capsys.readouterr().out

    incidents.draw(2)
    assert capsys.readouterr().out.endswith("9 incidents are drawn.\n")
    met = []
    for _ in incidents.BREAKS:
        incident = incidents.next()
        met.append(incident.name)
        assert verdict(incident).startswith("Not yet: ") and "destroyed" not in verdict(incident), incident.name
        reset_everything()
        told = verdict(incident)
        assert told.startswith("Not yet: you have destroyed"), incident.name
        assert not [what for what in DESTROYED + ALSO.get(incident.name, []) if what not in told], (incident.name, told)
        incident.begin()
        exec(incidents.TEXTS[incident.name]["solution"], {})
        mended = verdict(incident)
        assert mended.startswith("Right: ") and "What could have told you sooner" in mended, (incident.name, mended)
    assert sorted(met) == sorted(incidents.TEXTS) and met != list(incidents.BREAKS)
    (done,) = [lesson.exercises for lesson in progress.read() if lesson.name == "05_incidents"]
    assert len(done) == len(met) and all(done.values()), "the learner's record has them all"

    for number in range(1, 4):
        incident.hint()
        assert capsys.readouterr().out.splitlines()[-1] and incident.asked == number
    incident.hint()
    incident.solution()
    assert "That was the last hint" in (shown := capsys.readouterr().out) and "import" in shown

    shop.clear()
    assert shop.owned() == {"the connection limit of the database role 'etl'": limits.DEFAULT}
    lessons.end()
    assert lab.status().auth == "none"
    lab.reset()
    assert "the lab was thrown away" in verdict(incident)


@pytest.mark.long
def test_the_sessions_of_an_incident_end_with_a_kernel_that_was_killed(lab_folder: Path) -> None:
    sources = [cell.source for cell in code(read("05_incidents"))[:3]]
    sources += ['incidents.Incident("hanging_query", "Incident 1").begin()\nprint(len(incidents.shop.owned()))']
    sources += ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    killed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    with pytest.raises(Exception, match="Kernel died"):
        execute(killed, lab_folder)
    assert text(code(killed)[3]).endswith("8\n"), "2 limits, 2 slots, a key, 2 sessions, the role's limit"
    sessions = "select application_name from pg_stat_activity where application_name like 'lesson-shop%'"
    eventually(lambda: shop.sql(sessions) == [])
    again = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("import lessons; lessons.begin(); lessons.end()")]
    )
    execute(again, lab_folder)
    server.use()
    left = {limit["tag"] for limit in rest.send(endpoints.limits())} | set(keys.bearer())
    assert not [name for name in left if name.startswith(records.PREFIX)]
