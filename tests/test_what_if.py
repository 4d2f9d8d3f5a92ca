"""A finished run beside its replay under another limit: what the page says, and what another run teaches."""

import math
from collections.abc import Sequence

import fill
import pandas as pd
import pytest
import what_if
from streamlit.testing.v1 import AppTest

from flows import lab
from flows.api import rest
from flows.monitor import frames

START = pd.Timestamp("2026-01-01", tz="UTC")


def made(run: str, spans: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Return TASK_RUNS of a flow run, each of its own name, that ran for these `spans`, in seconds since START."""
    rows = [
        {"task_run_id": f"{run} {number}", "flow_run_id": run, "name": f"query {number}", "state": "Completed"}
        | {"state_type": "COMPLETED", "tags": ["database"], "submitted": START.isoformat()}
        | {"started": (START + pd.Timedelta(seconds=begin)).isoformat()}
        | {"ended": (START + pd.Timedelta(seconds=end)).isoformat()}
        for number, (begin, end) in enumerate(spans)
    ]
    return frames.timed(frames.typed(rows, frames.TASK_RUNS), START)


def rounds(limit: int, each: float, begin: float = 0.0) -> list[tuple[float, float]]:
    """Return the spans of nine equal tasks that run in rounds."""
    return [(begin + number // limit * each, begin + (number // limit + 1) * each) for number in range(9)]


THREE = made("this", rounds(3, 1.5))


def test_another_run_of_the_same_names_tells_what_shared_cores_cost() -> None:
    """Alone, each takes a second; three at once a second and a half each: two cores."""
    assert math.isnan(what_if.known_from(THREE, THREE.iloc[:0]).costs.cores)
    known = what_if.known_from(THREE, made("alone", rounds(1, 1.0, begin=-50)))
    assert known.costs.cores == 2.0 and known.others == 1
    assert known.predicted == pytest.approx(known.real, rel=0.02) and known.real == 9


@pytest.mark.parametrize(
    "other",
    [
        made("as many at once", rounds(3, 1.0, begin=-50)),
        made("other queries", rounds(1, 1.0, begin=-50)).assign(name="another"),
        made("at a fifth of the scale", rounds(1, 0.2, begin=-50)),
        made("not ended", rounds(1, 1.0, begin=-50)).assign(ended=pd.Series(dtype="datetime64[ns, UTC]")),
    ],
    ids=lambda runs: runs["flow_run_id"][0],
)
def test_a_run_that_is_no_help_is_not_used(other: pd.DataFrame) -> None:
    known = what_if.known_from(THREE, other)
    assert math.isnan(known.costs.cores) and known.others is None


def test_the_sentence_says_what_is_not_known() -> None:
    known = what_if.known_from(THREE, THREE.iloc[:0])
    text = what_if.sentence(THREE, THREE, 5, known)
    assert "What shared cores cost is not known" in text
    assert "Whether the machine or the database can bear 5 at once, no run has shown." in text
    assert "no run has shown" not in what_if.sentence(THREE, THREE, 2, known)


def test_a_finished_run_is_replayed_under_the_chosen_limit(app: AppTest, shared_lab: str) -> None:
    """Twenty task runs of 0.9 s, a new one every 0.3 s, three at once."""
    database = lab.status().database
    assert database is not None
    run = fill.fill_wide(database, 20)
    try:
        app = AppTest.from_string("import run_page\nrun_page.show()", default_timeout=60)
        app.query_params["id"] = run
        app.run()
        assert not app.slider, "nothing is replayed, and nothing asked, before somebody wants it"
        app.toggle[0].set_value(True).run()
        app.slider[0].set_value(2).run()
        assert not app.exception
        texts = " ".join(info.value.replace("\\", "") for info in app.info)
        assert "It took 6.6 s, with at most 3 at once; with a limit of 2, it would have taken about 9.3 s." in texts
        assert "(With 3, the replay takes 6.6 s.)" in texts and "one slot at a time, which took 0.30 s" in texts
        captions = " ".join(caption.value.replace("\\", "") for caption in app.caption)
        assert "the real one took 6.6 s, the replayed one, with a limit of 2, 9.3 s" in captions
        rest.call("POST", f"flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
        app.session_state.again = True
        app.run()
        assert not app.exception and not app.slider, "a run that goes on cannot be replayed"
    finally:
        fill.empty(database)
