"""The questions that the lessons' exercises are graded by, asked of the server.

Each prints one line: what is right, or what is not and a hint. None raises.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, ParamSpec

import pandas as pd
from pydantic import SecretStr

import lessons
from flows import limits, report, settings
from flows.api import diagnosis, endpoints, rest
from flows.monitor import frames, pages
from flows.settings import CannotRun

Asked = ParamSpec("Asked")


class _No(Exception):
    """The answer is not right. The message says what is wrong, and gives a hint."""


def _told(check: Callable[Asked, str]) -> Callable[Asked, None]:
    """`check`, which returns what is right or raises _No, as a check that prints."""

    @functools.wraps(check)
    def told(*arguments: Asked.args, **named: Asked.kwargs) -> None:
        try:
            print(f"Right: {check(*arguments, **named)}")
        except (_No, CannotRun) as no:
            print(f"Not yet: {no}")
        except Exception as error:
            print(
                f"Not yet: the answer cannot be read ({type(error).__name__}: {error}). Keep the form of the example."
            )

    return told


@_told
def repaired(configuration: Mapping[str, str], url: str) -> str:
    """01, 1: whether the server at `url` accepts a program with this `configuration` as its environment."""
    return f"the server accepts it, and {_accepted(configuration, url).scheme} is what is sent."


@_told
def revoked(named: str, three: Mapping[str, SecretStr], url: str) -> str:
    """01, 2: whether `named` is the one of `three` (keys by holder) whose key the server at `url` refuses."""
    if named not in three:
        raise _No(f"name one of {', '.join(three)}.")
    with _environment({"PREFECT_API_URL": url, "PREFECT_API_KEY": three[named]}):
        if diagnosis.check(url).accepted:
            raise _No(f"the server accepts the key of {named!r}. Ask it with each of the three.")
    return f"the server refuses that key, and accepts the other {len(three) - 1}."


@_told
def hidden(configuration: Mapping[str, Any], key: str, url: str) -> str:
    """01, 3: whether the server at `url` accepts the `configuration`, and printing it does not show `key`."""
    for way, text in {"print": str(configuration), "a log": f"{list(configuration.values())}"}.items():
        if key in text:
            raise _No(f"{way} shows the key. Put it into something that does not print itself.")
    if key in json.dumps(configuration, default=str):
        raise _No("json.dumps shows the key. Put it into something that does not print itself.")
    _accepted(configuration, url)
    return "the server accepts it, and nobody reads it in a log."


@_told
def predictions(predicted: Mapping[int, float | None], runs: Mapping[int, str]) -> str:
    """02, 1: whether the predicted seconds fit what the server recorded of the flow runs `runs`; both by limit."""
    for limit, run in runs.items():
        guess = predicted.get(limit)
        if guess is None:
            raise _No(f"there is no prediction for a limit of {limit}. How many rounds do ten tasks need?")
        tasks = lessons.finished(run, 10).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        least = report.ideal_seconds([0.3] * len(tasks), limit)
        if guess < 0.9 * least:
            raise _No(
                f"under a limit of {limit} it cannot take {guess:.1f} s: that is {least / 0.3:.0f} rounds of 0.3 s."
            )
        if guess > 1.5 * max(took, least):
            raise _No(f"under a limit of {limit} it took less than {guess:.1f} s. Do {limit} tasks run at once in it?")
    return "the server's times bear your predictions out."


@_told
def two_databases(tags: Mapping[str, str], connections: Mapping[str, int]) -> str:
    """02, 2: whether each database has a tag of its own, with a limit on the server that fits its `connections`."""
    if tags.keys() != connections.keys() or any(tag == "…" for tag in tags.values()):
        raise _No(f"name a tag for each of {' and '.join(connections)}.")
    for tag in tags.values():
        if not tag.startswith("lesson-"):
            raise _No(f"the tag {tag!r} does not begin with 'lesson-'. By that the last cell knows what it may remove.")
    if len(set(tags.values())) < len(tags):
        raise _No("both databases have the same tag, so all its slots could go to one of them. Choose two tags.")
    for database, most in connections.items():
        found = limits.read(tags[database])
        if found is None:
            raise _No(f"the server has no limit for the tag {tags[database]!r}. Set it with limits.ensure.")
        if found.limit > most:
            raise _No(f"{found.limit} may run on {database} at once, and it takes {most} connections. Lower the limit.")
        if found.limit < most:
            raise _No(f"{database} takes {most} connections, and only {found.limit} may run. A seat stays empty.")
    return "two scarce things, two tags, two limits; the server has them."


@_told
def leak(named: str, suspects: Sequence[str]) -> str:
    """02, 3: whether the tag of which `lessons.hold_slot` lost a slot is named, and the slot is free."""
    if named not in suspects:
        raise _No(f"name one of {', '.join(suspects)}. Ask the server how many slots of each are taken.")
    for tag in suspects:
        found = limits.read(tag)
        if found is None or found.limit != 2:
            raise _No(f"the limit of {tag!r} is no longer 2. Free its slots, and leave the limit: limits.reset.")
    body = {"flows": {"name": {"any_": [lessons.FLOW]}}, "task_runs": {"tags": {"all_": [named]}}}
    if not rest.call("POST", "task_runs/count", body):  # the counter says nothing any more, once it is reset
        raise _No(f"{named!r} has lost no slot. Look at active_slots of each tag, before you free it.")
    if any(limit.active_slots for tag in suspects if (limit := limits.read(tag))):
        raise _No(f"{named!r} it is, and its slot is still taken. Free it: limits.reset.")
    return "the leaked slot is found and free."


@_told
def cleanup(flow: str) -> str:
    """03, 1: whether in the newest run of `flow` cleanup came after the last query, one of which failed."""
    tasks = _newest(flow, 4).task_runs
    cleanups = tasks[tasks["name"].str.startswith("cleanup")]
    queries = tasks.drop(index=cleanups.index)
    if not (queries["state_type"] == "FAILED").any():
        raise _No("no query failed in the run. Submit those in `broken`: it is about what comes after a failure.")
    if cleanups.empty:
        raise _No("the server knows of no cleanup in the run. Call it after a wait() for each future: result() raises.")
    early = (queries["ended"].max() - cleanups["started"].min()).total_seconds()
    if early > 0:
        raise _No(f"cleanup began {early:.1f} s before the last query had ended. Wait for all futures first.")
    state = cleanups["state"].iloc[0]
    if state == "NotReady":
        raise _No("cleanup is NotReady, for good: wait_for means if they completed. Wait in the flow instead.")
    if state != "Completed":
        raise _No(f"cleanup is {state}: {cleanups['message'].iloc[0]}")
    return "a query failed, and cleanup came after the last one."


@_told
def waste(wasted: Mapping[str, float | None], because: str, runs: Mapping[str, str], limit: int) -> str:
    """03, 2: whether the idle slot-seconds of each of the flow runs `runs` are right, and the cause for the batches."""
    for way, run in runs.items():
        tasks = lessons.finished(run).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        idle, said = limit * took - tasks["ran_seconds"].sum(), wasted.get(way)
        if said is None:
            raise _No(f"how many slot-seconds did {way!r} waste? {limit} slots, {took:.1f} s, less what the tasks ran.")
        if abs(said - idle) > 0.25 * idle + 0.15 * len(tasks):
            raise _No(f"{said:.1f} is not what {way!r} wasted. Its {limit} slots were there for {took:.1f} s each.")
    if because != "a":
        raise _No("the cause is another one. In the timeline of the batches, what are the empty slots waiting for?")
    return "the batches wait for their longest task, and the server's times say how long."


@_told
def one_more_query(flow: str, query: str, others: int, limit: int) -> str:
    """03, 3: whether the newest run of `flow` ran `query` beside `others`, with the tag, and the limit held."""
    page = _newest(flow, others + 1)
    mine = page.task_runs[page.task_runs["name"].str.startswith(query)]
    if mine.empty:
        raise _No(f"the server knows of no task run {query!r} in the run. Submit it as a task named so.")
    if set(mine["state"]) != {"Completed"}:
        raise _No(f"{query!r} is {mine['state'].iloc[0]}: {mine['message'].iloc[0]}")
    if len(page.task_runs) - len(mine) < others:
        raise _No(f"the run has {len(page.task_runs) - len(mine)} other queries. Keep all {others}.")
    if frames.tagged(mine, limits.TAG).empty:
        raise _No(f"{query!r} ran without a slot, since it has no tag {limits.TAG!r}: it was one connection too many.")
    if (mine["submitted"] >= page.task_runs.drop(index=mine.index)["ended"].max()).all():  # the slot may come late
        raise _No(f"{query!r} began after all others had ended. Submit it with them, and then wait.")
    peak = frames.concurrency(page.task_runs, page.until)["running"].max()
    if peak > limit:
        raise _No(f"{peak} queries ran at once, where {limit} may. Do all of them have the tag?")
    return f"{query!r} shares the slots with the others, and the limit held."


@_told
def slowest(named: str, since: datetime, before: datetime) -> str:
    """04, 1: whether `named` is the query of main_etl, started between `since` and `before`, that ran longest."""
    between = {"after_": since.isoformat(), "before_": before.isoformat()}
    those = {"start_time": between, "tags": {"all_": [limits.TAG]}}
    body = {"flows": {"name": {"any_": ["main_etl"]}}, "task_runs": those}
    found = frames.task_runs(rest.rows(rest.Request("POST", "task_runs/filter", body)), pd.Timestamp.now("UTC"))
    ran = found.groupby("name")["ran_seconds"].max().sort_values(ascending=False)
    if named not in ran.index:
        known = rest.call("POST", "task_runs/count", {"task_runs": {"name": {"any_": [named]}}})
        when = "did not start in that time. Put both times into the filter" if known else "is no query of a run"
        raise _No(f"{named!r} {when}.")
    if named != ran.index[0]:
        raise _No(f"{named!r} ran {ran[named]:.2f} s, and another one longer. Compare all {len(ran)} of that time.")
    return "it ran longest of those that started in that time."


@_told
def waits(said: Mapping[str, str], waiting: Mapping[str, str]) -> str:
    """04, 2: whether the reason `said` for each run of `waiting` (ids by name) is the one that the server shows."""
    for name, flow_run_id in sorted(waiting.items()):
        run = rest.send(endpoints.flow_run(flow_run_id))
        due = pd.to_datetime(run["expected_start_time"], utc=True) <= pd.Timestamp.now("UTC")
        true, hint = {
            "PAUSED": ("paused", "its state says it"),
            "RUNNING": ("no slot", "it has begun; look at its task runs and their tags"),
        }.get(run["state_type"], ("no worker", "it is due") if due else ("not due", "look at when it is due"))
        if said.get(name) not in ("not due", "no worker", "paused", "no slot"):
            raise _No(f"say one of the four reasons for {name!r}.")
        if said[name] != true:
            raise _No(f"{name!r} is {run['state_name']}, and waits for another reason: {hint}.")
    return "each run waits for what you say."


@_told
def failed_filter(body: Mapping[str, Any]) -> str:
    """04, 3: whether `body`, sent to flow_runs/filter, finds what the monitor shows as failed."""
    found = rest.rows(rest.Request("POST", "flow_runs/filter", dict(body)), 5000)
    wanted = rest.rows(endpoints.flow_runs(state=["FAILED", "CRASHED"]), 5000)
    if any(run["state_type"] not in ("FAILED", "CRASHED") for run in found):
        raise _No("it finds runs that have not failed, too. Ask for the types of their state.")
    missing = {run["state_type"]: run for run in wanted if run["id"] not in {one["id"] for one in found}}
    if missing:
        raise _No(f"it misses runs of the type {' and '.join(sorted(missing))}. A list may name several types.")
    return f"it finds what the monitor shows as failed, {'and nothing else' if found else 'which is nothing'}."


def _accepted(configuration: Mapping[str, Any], url: str) -> diagnosis.Check:
    """What the server says of a program with this `configuration`. Raises _No where it does not accept it."""
    with _environment(configuration):
        named = settings.read().prefect_api_url
        if named != url:
            raise _No(f"PREFECT_API_URL is {named}, and the server is at {url}.")
        found = diagnosis.check(url)
    if not found.accepted:
        raise _No(found.detail)
    if "PREFECT_API_AUTH_STRING" in configuration and "PREFECT_API_KEY" in configuration:
        raise _No(found.detail)
    return found


@contextlib.contextmanager
def _environment(configuration: Mapping[str, Any]) -> Generator[None]:
    """The environment, for a while, with those credentials that `configuration` has, and no others."""
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS"):
        os.environ.pop(name, None)
    for name, value in configuration.items():
        os.environ[name] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _newest(flow: str, tasks: int) -> pages.Run:
    """The newest run of the flow named `flow`, with its `tasks` task runs, or as many as there are."""
    runs = rest.send(endpoints.flow_runs(flow=flow, limit=1))
    if not runs:
        raise _No(f"the server knows of no run of a flow named {flow!r}. Run the cell above.")
    with contextlib.suppress(CannotRun):  # perhaps it has fewer
        return lessons.finished(runs[0]["id"], tasks, seconds=3)
    return pages.run(runs[0]["id"])
