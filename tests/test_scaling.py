"""docs/scaling.md: its figures are those that were stored, and the simulation agrees with what was measured."""

import json
import re
from itertools import product

import pytest
from simulate_slots import EACH, PROCESSES, WAITS, simulate

from flows import settings

DOCS = settings.PROJECT / "docs"
TEXT = (DOCS / "scaling.md").read_text()
MEASURED = [
    row
    for row in json.loads((DOCS / "figures/growth.json").read_text())["rows"]
    if (row["tasks"], row["limit"]) == (96, 3)
]
SIMULATED = json.loads((DOCS / "figures/slots.json").read_text())["rows"]
SET_UPS = json.loads((DOCS / "figures/scaling.json").read_text())["rows"]
TOLERANCE = 0.25  # of the span and of the server's time; the document states it


def table(heading: str, place: int = 0) -> list[list[str]]:
    """Return the cells of the rows of one of the tables under a heading of the document."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"\n\|[-:| ]+\|\n((?:\|.*\|\n)+)", section)[place].splitlines()
    return [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]


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
    assert rows == SIMULATED


def test_the_document_shows_the_stored_simulation() -> None:
    rows = table("How many processes a server bears", 1)
    shown = {int(processes): [float(rate) for rate in rates] for processes, *rates in rows}
    stored: dict[int, list[float]] = {}
    for row in SIMULATED:
        stored.setdefault(row["processes"], []).append(row["tasks_per_second"])
    assert shown == {processes: [round(rate, 1) for rate in rates] for processes, rates in stored.items()}


def test_the_document_shows_the_stored_measurements() -> None:
    shown = table("When to move on")
    assert len(shown) == len(SET_UPS)
    for cells, row in zip(shown, SET_UPS, strict=True):
        busy = ", ".join(
            f"{name} {share:.0%}".replace("%", " %") for name, share in row["busy"].items() if share >= 0.05
        )
        figures = [row["limit"], row["span_seconds"], row["tasks_per_second"], row["peak"]]
        assert cells == [row["set_up"], *map(str, figures), busy]
        assert row["peak"] <= row["limit"]


def test_every_setting_that_is_named_exists() -> None:
    from prefect.settings import Settings

    known = {name.upper() for name in Settings().to_environment_variables()}
    named = set(re.findall(r"`(PREFECT_\w+)`", TEXT))
    assert named and named <= known | {"PREFECT_API_KEY"}, named - known
