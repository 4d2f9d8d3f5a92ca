"""Two API servers and background services over one PostgreSQL and one Redis: compose.yaml, run without Docker."""

import signal
import subprocess
from collections.abc import Iterator
from os import killpg
from pathlib import Path

import pytest
import servers
from servers import Servers
from support.commands import FLOW, LIMIT, answer, run
from support.drills import recorded
from support.labs import slots
from support.runs import blocked, in_the_middle, staging, tables
from support.waiting import eventually

from flows import warehouse
from flows.api import endpoints, rest


@pytest.fixture
def two(copied_lab: Path, scaled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Yield the servers, which all commands use; the warehouse is the lab's."""
    with servers.running(tmp_path, scaled) as started:
        for name, value in started.client.items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.mark.long
def test_a_server_that_is_killed_in_the_middle_costs_nothing(two: Servers) -> None:
    assert answer(run(LIMIT, "--json"))["limit"] == 3
    with recorded() as record:
        with blocked():
            flow, run_id = in_the_middle()
            killpg(two.processes["first"].pid, signal.SIGKILL)
        out, err = flow.communicate(timeout=200)
        report = answer(subprocess.CompletedProcess(flow.args, flow.returncode, out, err))
        assert (report["state"], report["completed"], report["peak_concurrency"]) == ("Completed", 20, 3), err
        assert not two.healthy("first") and two.healthy("second") and two.healthy("background")
        assert set(tables()) >= set(warehouse.names()) and staging() == []
        eventually(lambda: slots() == 0)
        # The server knows of every task run that it was completed: no event is lost between the servers and Redis.
        of_run = endpoints.task_runs(flow_run=run_id)
        eventually(lambda: [row["state_name"] for row in rest.rows(of_run)] == ["Completed"] * 22)
        after = run(FLOW, "--queries", "busiest_clerks,lines_per_order", "--json")
        assert answer(after)["completed"] == 2, after.stderr
    assert record.peak() == 3 and slots() == 0
