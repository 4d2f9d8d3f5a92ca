"""docs/scaling.md: the simulation agrees with what was measured, and the settings that it names exist."""

import re
from itertools import product

import pytest
from simulate_slots import EACH, PROCESSES, WAITS, simulate
from support.figures import stored

from flows import settings

TEXT = (settings.PROJECT / "docs" / "scaling.md").read_text()
MEASURED = [row for row in stored("growth") if (row["tasks"], row["limit"]) == (96, 3)]
TOLERANCE = 0.25  # of the span and of the server's time; the document states it


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row['processes']} processes")
def test_the_simulation_agrees_with_the_measurements(row: dict) -> None:
    assert [row["processes"] for row in MEASURED] == [1, 2, 4, 8]
    simulated = simulate(row["processes"], row["tasks"], row["seconds"], row["limit"], wait=0.03)
    assert simulated["span_seconds"] == pytest.approx(row["span_seconds"], rel=TOLERANCE)
    assert simulated["server_ms_per_task"] == pytest.approx(row["server_cpu_ms_per_task"], rel=TOLERANCE)
    assert simulated["refused_per_task"] == pytest.approx(row["refused_per_task"], rel=TOLERANCE, abs=0.2)
    assert f"{TOLERANCE:.0%}".replace("%", " %") in TEXT


def test_the_stored_simulation_is_the_one_of_today() -> None:
    rows = [simulate(n, EACH * n, 0.2, 3, wait, servers) for n in PROCESSES for servers, wait in product((1, 2), WAITS)]
    assert rows == stored("slots")


def test_every_setting_that_is_named_exists() -> None:
    from prefect.settings import Settings

    known = {name.upper() for name in Settings().to_environment_variables()}
    named = set(re.findall(r"`(PREFECT_\w+)`", TEXT))
    assert named and named <= known | {"PREFECT_API_KEY"}, named - known
