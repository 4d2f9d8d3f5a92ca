"""The main job on a Dask cluster: a scheduler and two worker processes, really started and really killed."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import started
from support.commands import FLOW, answer, refused, run
from support.drills import recorded
from support.labs import slots
from support.runs import blocked, in_the_middle, staging, tables
from support.servers import free_port
from support.waiting import eventually

from flows import settings, warehouse

# Puts an empty folder in the place of the lab's, for one process: another machine, on which the folder is another one.
ELSEWHERE = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']


def completed(folder: Path, name: str) -> list[str]:
    """Return the queries that a worker completed, in all runs."""
    return re.findall(r"Task run '(\w+)' - Finished in state Completed", (folder / name / "log").read_text())


@pytest.fixture(scope="module")
def cluster(
    shared_folder: Path, scaled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, list[subprocess.Popen]]]:
    """Yield the address of a scheduler, the folder of the cluster's logs, and its two workers, "first" and "second"."""
    folder, address, dask = (
        tmp_path_factory.mktemp("dask"),
        f"tcp://127.0.0.1:{free_port()}",
        str(scaled.with_name("dask")),
    )
    scheduler = [
        dask,
        "scheduler",
        "--no-dashboard",
        "--host",
        address.rpartition(":")[0],
        "--port",
        address.rpartition(":")[2],
    ]
    worker = [dask, "worker", address, "--nthreads", "2", "--no-nanny", "--no-dashboard", "--local-directory", "."]
    with contextlib.ExitStack() as stack:
        stack.enter_context(started(folder / "scheduler", scheduler))
        workers = [stack.enter_context(started(folder / name, worker)) for name in ("first", "second")]
        for name in ("first", "second"):
            eventually(lambda log=folder / name / "log": "Registered to" in log.read_text())
        yield address, folder, workers


def test_without_the_group_dask_the_main_job_says_how_to_install_it(new_lab: Path) -> None:
    assert "Run uv sync --group dask" in refused(run(FLOW, "--runner", "dask"))
    assert list(new_lab.iterdir()) == [], "nothing was started for nothing"


@pytest.mark.long
def test_the_queries_run_in_two_processes_under_the_same_limit(shared_lab: str, cluster: tuple, scaled: Path) -> None:
    address, folder, _ = cluster
    with recorded() as record:
        done = run(FLOW, "--runner", "dask", "--address", address, "--json", python=scaled)
    report = answer(done)
    assert (report["state"], report["completed"], report["peak_concurrency"]) == ("Completed", 20, 3), done.stderr
    assert record.peak() == 3
    assert set(tables()) >= set(warehouse.names())
    ran = [completed(folder, name) for name in ("first", "second")]
    assert sorted(ran[0] + ran[1]) == warehouse.names() and all(ran), ran
    assert staging() == [] and slots() == 0


@pytest.mark.long
def test_ctrl_c_stops_the_queries_in_the_workers(shared_lab: str, cluster: tuple, scaled: Path) -> None:
    with blocked():
        flow, run_id = in_the_middle("--runner", "dask", "--address", cluster[0], python=scaled)
        flow.send_signal(signal.SIGINT)
        out, err = flow.communicate(timeout=100)
    assert flow.returncode == 1 and "Traceback" not in err, err
    report = answer(subprocess.CompletedProcess(flow.args, flow.returncode, out, err))
    assert report["state"] == "Cancelled" and report["flow_run_id"] == run_id and 0 < report["failed"] <= 20
    assert staging() == []
    eventually(lambda: slots() == 0)


@pytest.mark.long
def test_a_worker_that_is_killed_in_the_middle(shared_lab: str, cluster: tuple, scaled: Path) -> None:
    """The other worker repeats what it ran; its slots are free once their leases have expired."""
    address, _, (first, _) = cluster
    arguments = ["--runner", "dask", "--address", address]
    with recorded() as record:
        with blocked():
            flow, _ = in_the_middle(*arguments, python=scaled)
            first.kill()
        out, err = flow.communicate(timeout=200)
        report = answer(subprocess.CompletedProcess(flow.args, flow.returncode, out, err))
        assert (report["state"], report["completed"]) == ("Completed", 20), err
        after = run(FLOW, *arguments, "--queries", "busiest_clerks,lines_per_order", "--json", python=scaled)
        assert answer(after)["completed"] == 2, after.stderr
    assert record.peak() <= 3
    assert set(tables()) >= set(warehouse.names()) and staging() == []
    eventually(lambda: slots() == 0, 100)


@pytest.mark.long
def test_a_cluster_that_cannot_run_the_queries_is_named(shared_lab: str, cluster: tuple, scaled: Path) -> None:
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    line = refused(run(FLOW, "--runner", "dask", "--address", nowhere, python=scaled))
    assert f"No Dask scheduler answers at {nowhere}" in line and "--address" in line
    address, folder, _ = cluster
    lab = settings.read().flows_lab_dir
    worker = [
        str(scaled.with_name("dask")),
        "worker",
        address,
        "--no-nanny",
        "--no-dashboard",
        "--local-directory",
        "/tmp",
    ]
    assert os.getuid() == 0, "mounting takes root; run the tests with sudo, as .ci/run does"
    with started(folder / "third", [*ELSEWHERE, str(lab), *worker]):
        eventually(lambda: "Registered to" in (folder / "third" / "log").read_text())
        line = refused(run(FLOW, "--runner", "dask", "--address", address, python=scaled))
    assert f"does not have the folder {lab}" in line and "FLOWS_LAB_DIR" in line
