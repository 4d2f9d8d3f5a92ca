"""The limit of a tag: set, read back, shown with its holders, and freed of leaked slots."""

import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from support.commands import FLOW, LIMIT, answer, refused, run, start
from support.labs import processes_below, slots
from support.waiting import eventually

from flows import limits, warehouse
from flows.api import endpoints, rest


def test_the_script_sets_reads_and_changes(shared_lab: str) -> None:
    httpx.delete(f"{shared_lab}/concurrency_limits/tag/{limits.TAG}").raise_for_status()
    first = answer(run(LIMIT, "--json"))
    assert first == {"tag": "database", "limit": 3, "active_slots": 0, "holders": [], "changed": True}
    assert answer(run(LIMIT, "--json")) == first | {"changed": False}
    assert answer(run(LIMIT, "--limit", "5", "--json")) == first | {"limit": 5}
    assert answer(run(LIMIT, "--tag", "reports", "--limit", "2", "--json")) == first | {"tag": "reports", "limit": 2}
    assert limits.read("database").limit == 5
    on_server = httpx.get(f"{shared_lab}/v2/concurrency_limits/tag:reports").json()
    assert (on_server["limit"], on_server["active"]) == (2, True)


def take(tag: str) -> None:
    """Take a slot of the limit of `tag`, for a task run that does not exist."""
    holder = {"names": [tag], "task_run_id": "00000000-0000-4000-8000-000000000001"}
    rest.call("POST", "concurrency_limits/increment", holder)


def test_a_tag_without_a_limit_is_none(shared_lab: str) -> None:
    assert limits.read("nobody-limits-this") is None
    with pytest.raises(limits.CannotRun, match="has no limit, so it has no slots"):
        limits.reset("nobody-limits-this")


def test_a_tag_with_a_space_is_set_changed_and_freed(shared_lab: str) -> None:
    httpx.post(f"{shared_lab}/concurrency_limits/", json={"tag": "my db", "concurrency_limit": 2}).raise_for_status()
    take("my db")
    assert answer(run(LIMIT, "--tag", "my db", "--limit", "4", "--json"))["active_slots"] == 1
    freed = answer(run(LIMIT, "--tag", "my db", "--reset", "--json"))
    assert (freed["tag"], freed["limit"], freed["active_slots"], freed["holders"]) == ("my db", 4, 0, [])


@pytest.mark.parametrize("tag", [" a b ", "a?b#c=d", "a+b:c;d,e", "ä日\\'\"", "..."])
def test_every_tag_that_the_server_keeps_can_be_changed_and_freed(shared_lab: str, tag: str) -> None:
    for kind in ("tag", "global"):
        assert limits.ensure(tag, 2, kind) and limits.ensure(tag, 4, kind) and limits.read(tag, kind).limit == 4
        if kind == "tag":
            take(tag)
        else:
            rest.send(endpoints.change_counter(tag, active_slots=1))
        assert limits.read(tag, kind).active_slots == 1
        assert limits.reset(tag, kind).active_slots == 0


@pytest.mark.parametrize("tag", ["a/b", "", ".", "..", "a\nb", "a%b", "a&b", "a<b", "\udcff"])
def test_a_tag_that_the_server_would_choke_on_is_refused(shared_lab: str, tag: str) -> None:
    for kind in ("tag", "global"):
        with pytest.raises(limits.CannotRun, match=r"cannot have a limit\. Choose a name"):
            limits.ensure(tag, 2, kind)
    if tag == "a/b":
        assert "cannot have a limit" in refused(run(LIMIT, "--tag", tag))


@pytest.mark.parametrize("limit", ["0", "-1", "three", "1.5"])
def test_a_limit_that_cannot_be_meant_is_refused(shared_lab: str, limit: str) -> None:
    assert "is not a whole number of at least 1" in refused(run(LIMIT, f"--limit={limit}"))
    assert limits.read("database").limit == 3


def test_a_server_that_is_not_there_is_said(new_lab: Path) -> None:
    assert "No server answers" in refused(run(LIMIT, PREFECT_API_URL="http://127.0.0.1:9/api"))


def test_what_answers_but_is_no_prefect_server_is_said(new_lab: Path, tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    pages = subprocess.Popen(
        ["python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        port = pages.stdout.readline().split("port ")[1].split()[0]
        assert "that is not a Prefect API" in refused(run(LIMIT, PREFECT_API_URL=f"http://127.0.0.1:{port}/api"))
    finally:
        pages.kill()
        pages.wait()


@pytest.mark.long
def test_slots_that_a_killed_client_leaked_are_shown_and_freed(shared_lab: str) -> None:
    flow = start(FLOW)
    eventually(lambda: slots() == 3)
    flow.send_signal(signal.SIGKILL)
    flow.communicate()
    leaked = answer(run(LIMIT, "--json"))
    assert leaked["active_slots"] > 0
    assert [set(holder) for holder in leaked["holders"]] == [{"task_run_id", "name", "flow_run_id", "state"}] * len(
        leaked["holders"]
    )
    freed = answer(run(LIMIT, "--reset", "--json"))
    assert (freed["active_slots"], freed["holders"], freed["limit"], freed["changed"]) == (0, [], 3, True)
    on_server = httpx.get(f"{shared_lab}/v2/concurrency_limits/tag:database").json()
    assert on_server["active_slots"] == 0
    report = answer(run(FLOW, "--queries", "busiest_clerks,lines_per_order", "--json"))
    assert report["completed"] == 2


def test_the_holders_are_those_who_run(shared_lab: str) -> None:
    flow = start(FLOW)
    try:
        found: list[dict] = []

        def named() -> bool:
            """Whether the server knows all who hold slots: it hears of them, and of their names, a moment later."""
            limit = limits.read()
            found[:] = limit.holders if limit else []
            return bool(found) and {holder["name"] for holder in found} <= set(warehouse.names())

        eventually(lambda: slots() == 3)
        eventually(named)
        assert len(found) <= 3
    finally:
        flow.send_signal(signal.SIGINT)
        flow.communicate(timeout=100)
    eventually(lambda: slots() == 0)


@pytest.mark.long
def test_the_script_starts_the_lab_where_no_server_is_named(copied_lab: Path) -> None:
    assert answer(run(LIMIT, "--json"))["limit"] == 3
    assert [psutil.Process(process.pid).name() for process in processes_below(copied_lab)]
