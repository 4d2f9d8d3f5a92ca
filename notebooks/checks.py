"""The checks that grade the lessons' exercises by querying the server.

Each prints one line: what is right, or what is not right yet, with a hint. None of them raises.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pandas as pd
from pydantic import SecretStr

import lessons
import records
from flows import limits, report, settings
from flows.api import diagnosis, endpoints, rest, server
from flows.monitor import frames
from grading import Wrong, environment, newest_run, printing


@printing
def repaired(configuration: Mapping[str, str], url: str) -> str:
    """Grade 01, exercise 1: the server at `url` must accept a program with this `configuration` as its environment."""
    return f"the server accepts it, and the client sends {_accepted(configuration, url).scheme} credentials."


@printing
def revoked(named: str, three: Mapping[str, SecretStr], url: str) -> str:
    """Grade 01, exercise 2: `named` must be the one of `three` (keys by holder) that the server at `url` refuses."""
    if named not in three:
        raise Wrong(f"name one of {', '.join(three)}.")
    with environment({"PREFECT_API_URL": url, "PREFECT_API_KEY": three[named]}):
        if diagnosis.check(url).accepted:
            raise Wrong(f"the server accepts the key of {named!r}. Ask it with each of the three.")
    return f"the server refuses that key, and accepts the other {len(three) - 1}."


@printing
def hidden(configuration: Mapping[str, Any], key: str, url: str) -> str:
    """Grade 01, exercise 3: the server at `url` must accept `configuration`, and printing it must not show `key`."""
    shown = {
        "print": str(configuration),
        "a log": f"{list(configuration.values())}",
        "json.dumps": json.dumps(configuration, default=str),
    }
    for way, text in shown.items():
        if key in text:
            raise Wrong(f"{way} shows the key. Wrap it in a type that hides its value when it is printed.")
    _accepted(configuration, url)
    return "the server accepts it, and no log shows the key."


@printing
def predictions(predicted: Mapping[int, float | None], runs: Mapping[int, str]) -> str:
    """Grade 02, exercise 1: the seconds in `predicted` must fit the server's times of `runs`; both are by limit."""
    for limit, run in runs.items():
        guess = predicted.get(limit)
        if guess is None:
            raise Wrong(f"there is no prediction for a limit of {limit}. How many rounds do ten tasks need?")
        tasks = lessons.finished(run, 10).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        least = report.ideal_seconds([0.3] * len(tasks), limit)
        if guess < 0.9 * least:
            raise Wrong(
                f"with a limit of {limit} it cannot take {guess:.1f} s: it needs {least / 0.3:.0f} rounds of 0.3 s."
            )
        if guess > 1.5 * max(took, least):
            raise Wrong(f"with a limit of {limit} it took less than {guess:.1f} s. How many tasks run at once?")
    return "the times the server recorded match your predictions."


@printing
def two_databases(tags: Mapping[str, str], connections: Mapping[str, int]) -> str:
    """Grade 02, exercise 2: each database must have its own tag, with a limit that equals its `connections`."""
    if tags.keys() != connections.keys() or any(tag == "…" for tag in tags.values()):
        raise Wrong(f"name a tag for each of {' and '.join(connections)}.")
    for tag in tags.values():
        if not tag.startswith(f"{records.PREFIX}-"):
            raise Wrong(f"the tag {tag!r} does not begin with 'lesson-', so the last cell would not remove its limit.")
    if len(set(tags.values())) < len(tags):
        raise Wrong("both databases have the same tag, so all its slots could go to one of them. Choose two tags.")
    for database, accepted in connections.items():
        limit = limits.read(tags[database])
        if limit is None:
            raise Wrong(f"the server has no limit for the tag {tags[database]!r}. Set it with limits.ensure.")
        if limit.limit > accepted:
            raise Wrong(
                f"{limit.limit} queries may use {database} at once, but it accepts {accepted} connections."
                " Lower the limit."
            )
        if limit.limit < accepted:
            raise Wrong(
                f"{database} accepts {accepted} connections, but only {limit.limit} queries may use it at once."
                " One connection is never used. Raise the limit."
            )
    return "two resources, two tags, two limits; the server has them."


@printing
def leak(named: str, suspects: Sequence[str]) -> str:
    """Grade 02, exercise 3: `named` must be the tag whose slot `exercises.hold_slot` took, and all slots be free."""
    if named not in suspects:
        raise Wrong(f"name one of {', '.join(suspects)}. Ask the server how many slots of each are taken.")
    for tag in suspects:
        limit = limits.read(tag)
        if limit is None or limit.limit != 2:
            raise Wrong(f"the limit of {tag!r} is no longer 2. Keep the limit, and free its slots with limits.reset.")
    # The counter cannot tell which tag it was, once it is reset.
    lost = endpoints.task_runs(flow=records.PREFIX, tag=named)
    if not rest.send(endpoints.count(lost)):
        raise Wrong(f"{named!r} has not lost a slot. Compare active_slots of the three tags before you free any slot.")
    if any(limit.active_slots for tag in suspects if (limit := limits.read(tag))):
        raise Wrong(f"{named!r} is the right tag, but its slot is still taken. Free it with limits.reset.")
    return "you named the tag that lost a slot, and the slot is free again."


@printing
def cleanup(flow: str) -> str:
    """Grade 03, exercise 1: in the newest run of `flow` a query must fail, and cleanup come after the last query."""
    tasks = newest_run(flow, 4).task_runs
    cleanups = tasks[tasks["name"].str.startswith("cleanup")]
    queries = tasks.drop(index=cleanups.index)
    if not (queries["state_type"] == "FAILED").any():
        raise Wrong("no query failed in the run. Submit the queries in `broken`: one of them fails.")
    if cleanups.empty:
        raise Wrong(
            "the run has no task run of cleanup. Call it after a wait() for each future, because result() raises."
        )
    early = (queries["ended"].max() - cleanups["started"].min()).total_seconds()
    if early > 0:
        raise Wrong(f"cleanup began {early:.1f} s before the last query had ended. Wait for all futures first.")
    state = cleanups["state"].iloc[0]
    if state == "NotReady":
        raise Wrong(
            "cleanup is NotReady and never runs: wait_for requires that all complete. Wait in the flow instead."
        )
    if state != "Completed":
        raise Wrong(f"cleanup is {state}: {cleanups['message'].iloc[0]}")
    return "a query failed, and cleanup ran after the last one had ended."


@printing
def waste(wasted: Mapping[str, float | None], because: str, runs: Mapping[str, str], limit: int) -> str:
    """Grade 03, exercise 2: the idle slot-seconds of each of `runs` must be right, and so must the cause."""
    for way, run in runs.items():
        tasks = lessons.finished(run).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        idle, answer = limit * took - tasks["ran_seconds"].sum(), wasted.get(way)
        if answer is None:
            raise Wrong(
                f"there is no answer for {way!r}. It had {limit} slots for {took:.1f} s, less what its tasks ran."
            )
        if abs(answer - idle) > 0.25 * idle + 0.15 * len(tasks):
            raise Wrong(f"{answer:.1f} is not what {way!r} wasted. It had {limit} slots for {took:.1f} s each.")
    if because != "a":
        raise Wrong(
            "the cause is a different one. What are the empty slots in the timeline of the batches waiting for?"
        )
    return "each batch waits for its longest task, and the times the server recorded show how long."


@printing
def one_more_query(flow: str, query: str, others: int, limit: int) -> str:
    """Grade 03, exercise 3: the newest run of `flow` must run `query` beside `others`, with the tag, under `limit`."""
    page = newest_run(flow, others + 1)
    mine = page.task_runs[page.task_runs["name"].str.startswith(query)]
    if mine.empty:
        raise Wrong(f"the run has no task run named {query!r}. Submit it as a task with this name.")
    if set(mine["state"]) != {"Completed"}:
        raise Wrong(f"{query!r} is {mine['state'].iloc[0]}: {mine['message'].iloc[0]}")
    beside = page.task_runs.drop(index=mine.index)
    if len(beside) < others:
        raise Wrong(f"the run has only {len(beside)} other queries. Keep all {others}.")
    if frames.tagged(mine, limits.TAG).empty:
        raise Wrong(f"{query!r} ran without a slot, because it has no tag {limits.TAG!r}: one connection too many.")
    if (mine["submitted"] >= beside["ended"].max()).all():  # the slot may come late
        raise Wrong(f"{query!r} was submitted after all others had ended. Submit it with them, and then wait.")
    peak = frames.concurrency(page.task_runs, page.until)["running"].max()
    if peak > limit:
        raise Wrong(f"{peak} queries ran at once, but only {limit} may. Do all of them have the tag?")
    return f"{query!r} shares the slots with the others, and no more than {limit} queries ran at once."


@printing
def slowest(named: str, since: datetime, before: datetime) -> str:
    """Grade 04, exercise 1: `named` must be the query of main_etl, started between the two times, that ran longest."""
    queries = rest.rows(endpoints.task_runs(flow="main_etl", tag=limits.TAG))
    task_runs = frames.task_runs(queries, pd.Timestamp.now("UTC"))
    started = task_runs[task_runs["started"].between(since, before)]
    ran = started.groupby("name")["ran_seconds"].max().sort_values(ascending=False)
    if named not in ran.index:
        if rest.send(endpoints.count(endpoints.task_runs(name=named))):
            raise Wrong(f"{named!r} did not start in that time. Put both times into the filter.")
        raise Wrong(f"{named!r} is not a query of any run.")
    if named != ran.index[0]:
        raise Wrong(f"{named!r} ran {ran[named]:.2f} s, but another one ran longer. Compare all {len(ran)}.")
    return "of the queries that started in that time, it ran longest."


@printing
def waits(reasons: Mapping[str, str], waiting: Mapping[str, str]) -> str:
    """Grade 04, exercise 2: `reasons` must give for each run of `waiting` (ids by name) why it waits."""
    for name, flow_run_id in sorted(waiting.items()):
        run = rest.send(endpoints.flow_run(flow_run_id))
        due = pd.to_datetime(run["expected_start_time"], utc=True) <= pd.Timestamp.now("UTC")
        right, hint = {
            "PAUSED": ("paused", "look at its state"),
            "RUNNING": ("no slot", "it has begun, so look at its task runs and their tags"),
        }.get(run["state_type"], ("no worker", "it is due") if due else ("not due", "look at when it is due"))
        if reasons.get(name) not in ("not due", "no worker", "paused", "no slot"):
            raise Wrong(f"choose one of the four reasons for {name!r}.")
        if reasons[name] != right:
            raise Wrong(f"{name!r} is {run['state_name']}, but waits for a different reason: {hint}.")
    return "these are the reasons why the four runs wait."


@printing
def failed_filter(body: Mapping[str, Any]) -> str:
    """Grade 04, exercise 3: `body`, sent to flow_runs/filter, must select what the monitor shows as failed."""
    selected = rest.rows(endpoints.flow_runs()._replace(body=dict(body)), 5000)
    failed = rest.rows(endpoints.flow_runs(state=endpoints.FAILED), 5000)
    if any(run["state_type"] not in endpoints.FAILED for run in selected):
        raise Wrong("it also selects runs that have not failed. Filter by the type of their state.")
    ids = {run["id"] for run in selected}
    missing = {run["state_type"] for run in failed if run["id"] not in ids}
    if missing:
        raise Wrong(f"it misses runs of the type {' and '.join(sorted(missing))}. A list may name several types.")
    return f"it selects what the monitor shows as failed{'' if selected else ', which is nothing at the moment'}."


def _accepted(configuration: Mapping[str, Any], url: str) -> diagnosis.Check:
    """Return how the server answers a program with this `configuration`. Raises Wrong if it does not accept it."""
    with environment(configuration):
        named = settings.read().prefect_api_url
        if named is not None:
            server.check_address(named)
        if named != url:
            raise Wrong(f"PREFECT_API_URL is {named or 'not set'}, but the server is at {url}.")
        check = diagnosis.check(url)
    if not check.accepted or {"PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"} <= configuration.keys():
        raise Wrong(check.detail)
    return check
