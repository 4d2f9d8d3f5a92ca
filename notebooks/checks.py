"""The checks that grade the lessons' exercises by querying the server.

Each prints one line: what is right, or what is not right yet, with a hint. None of them raises.
"""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from pydantic import BaseModel, SecretStr

import exercises
import lessons
import records
from flows import limits, report, settings
from flows.api import diagnosis, endpoints, rest, server
from flows.monitor import frames
from flows.settings import CannotRun
from grading import Wrong, environment, newest_run, number, parts, printing

PAUSE = 5.0  # seconds from the end of the last query to that of the flow: more than a cleanup takes on a busy machine


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
def hidden(configuration: Mapping[str, Any] | BaseModel, key: str, url: str) -> str:
    """Grade 01, exercise 3: the server at `url` must accept `configuration`, and printing it must not show `key`."""
    values = {name.upper(): value for name, value in dict(configuration).items()}  # a model has its fields
    shown = {
        "print": f"{configuration} {configuration!r}",
        "a log": f"{list(values.values())}",
        "json.dumps": json.dumps(values, default=str),
    }
    for way, text in shown.items():
        if key in text:
            raise Wrong(f"{way} shows the key. Wrap it in a type that hides its value when it is printed.")
    _accepted(values, url)
    return "the server accepts it, and no log shows the key."


@printing
def predictions(predicted: Mapping[int, float | str | None], runs: Mapping[int, str]) -> str:
    """Grade 02, exercise 1: the seconds in `predicted` must fit the server's times of `runs`; both are by limit."""
    problems, compared = {}, []
    for limit, run in runs.items():
        tasks = lessons.finished(run, 10).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        least = report.ideal_seconds([0.3] * len(tasks), limit)
        guess, problem = number(predicted.get(limit)), ""
        if guess is None:
            problem = f"there is no prediction for a limit of {limit}. How many rounds do ten tasks need?"
        elif guess < least - 0.01:
            rounds = round(least / 0.3)
            problem = f"with a limit of {limit} it cannot take {guess:.2f} s: it needs {rounds} rounds of 0.3 s."
        elif guess > 1.5 * max(took, least):
            problem = f"with a limit of {limit} it took less than {guess:.1f} s. How many tasks run at once?"
        else:
            compared.append(f"limit {limit}: {guess:.1f} s predicted, {took:.1f} s measured")
        problems[f"limit {limit}"] = problem
    parts(problems)
    return f"no prediction is below what is possible, or far above what was measured. {'; '.join(compared)}."


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
    # The counter cannot tell which tag it was, once it is reset; and a cell that was run again took another slot.
    held = [run for tag in suspects for run in rest.rows(endpoints.task_runs(flow=records.PREFIX, tag=tag))]
    newest = max(held, key=lambda run: run["created"])
    if named not in newest["tags"]:
        raise Wrong(f"{named!r} has not lost a slot. Compare active_slots of the three tags before you free any slot.")
    if any(limit.active_slots for tag in suspects if (limit := limits.read(tag))):
        raise Wrong(f"{named!r} is the right tag, but its slot is still taken. Free it with limits.reset.")
    return "you named the tag that lost a slot, and the slot is free again."


@printing
def cleanup(flow: str, queries: Sequence[str], staging: Path) -> str:
    """Grade 03, exercise 1: the newest run of `flow` must empty `staging`, after the last of `queries` has ended."""
    page = newest_run(flow, len(queries) + 1)
    tasks = page.task_runs
    submitted = tasks[tasks["name"].isin(queries)]
    if missing := [name for name in queries if name not in set(submitted["name"])]:
        raise Wrong(f"the run has no task run of {' and of '.join(missing)}. Submit all {len(queries)} queries.")
    last, others = submitted["ended"].max(), tasks.drop(index=submitted.index)
    for _, other in others.iterrows():
        if other["state"] == "NotReady":
            raise Wrong(
                f"{other['name'].split('-')[0]} is NotReady and never runs: wait_for requires that all complete."
                " Wait in the flow instead."
            )
        if other["state"] != "Completed":
            raise Wrong(f"{other['name']} is {other['state']}: {other['message']}")
    early = (last - others["started"].min()).total_seconds() if len(others) else 0
    if early > 0:
        raise Wrong(f"cleanup began {early:.1f} s before the last query had ended. Wait for all futures first.")
    emptied = pd.Timestamp(staging.stat().st_mtime, unit="s", tz="UTC") if staging.exists() else page.until
    if emptied > page.until + pd.Timedelta(seconds=1):
        raise Wrong("another cell has changed the staging folder since the run. Run your flow again, then the check.")
    if staging.exists() and any(staging.iterdir()):
        before = " It ran before the last query wrote its file." if len(others) else ""
        raise Wrong(
            f"files are left in staging.{before} Call cleanup after a wait() for each future, because result() raises."
        )
    if emptied < last - pd.Timedelta(seconds=0.05):
        raise Wrong("the folder was emptied before the last query had ended. Wait for all futures first.")
    if (pause := (page.until - last).total_seconds()) > PAUSE:
        raise Wrong(
            f"the flow ended {pause:.1f} s after the last query. A fixed pause is too long today and too short"
            " tomorrow: wait for the futures instead."
        )
    return "a query failed, and the folder was emptied after the last one had ended."


@printing
def waste(
    wasted: Mapping[str, float | str | None],
    because: str,
    runs: Mapping[str, str],
    limit: int,
    durations: Sequence[float],
) -> str:
    """Grade 03, exercise 2: the idle slot-seconds of each of `runs` must be right, and so must the cause.

    The tasks may be counted as long as they were asked to sleep (`durations`), or as long as they ran.
    """
    problems = {}
    for way, run in runs.items():
        tasks = lessons.finished(run).task_runs
        took = (tasks["ended"].max() - tasks["started"].min()).total_seconds()
        most, least = limit * took - sum(durations), limit * took - tasks["ran_seconds"].sum()
        answer, rounding = number(wasted.get(way)), 0.05 * max(most, 0) + 0.1
        had = f"It had {limit} slots for {took:.1f} s"
        problem = ""
        if answer is None:
            problem = f"give a number for {way!r}. {had}; subtract the seconds that its tasks ran."
        elif answer < 0 <= least:
            problem = f"{answer:.1f} cannot be right for {way!r}: no less than 0 slot-seconds can be wasted."
        elif not least - rounding <= answer <= most + rounding:
            problem = f"{answer:.1f} is not what {way!r} wasted. {had} each."
        problems[way] = problem
    wrong = "the cause is a different one. What are the empty slots in the timeline of the batches waiting for?"
    parts(problems | {"the cause": "" if because.strip(" .").lower() == "a" else wrong})
    return "each batch waits for its longest task, and the times the server recorded show how long."


@printing
def one_more_query(flow: str, names: Sequence[str], limit: int) -> str:
    """Grade 03, exercise 3: the newest run of `flow` must run a query beside those of `names`, under `limit`."""
    page = newest_run(flow, len(names) + 1)
    beside = page.task_runs[page.task_runs["name"].isin(names)]
    mine = page.task_runs.drop(index=beside.index)
    if len(beside) < len(names):
        raise Wrong(f"the run has only {len(beside)} of the other queries. Keep all {len(names)}.")
    if mine.empty:
        raise Wrong(f"the run has no task run beside those of the {len(names)} queries. Make newest_order a task.")
    name, state = mine["name"].iloc[0], mine["state"].iloc[0]
    if state == "Pending":
        raise Wrong(
            f"{name!r} never began: the flow failed first. Read its error above. A task_run_name with {{name}} in it"
            " needs a parameter called name, and newest_order has none."
        )
    if set(mine["state"]) != {"Completed"}:
        raise Wrong(f"{name!r} is {state}: {mine['message'].iloc[0]}")
    if mine["ran_seconds"].max() < 1:  # the query sleeps for a second
        raise Wrong(f"{name!r} ran for {mine['ran_seconds'].max():.1f} s, and newest_order takes a second. Call it.")
    if (mine["submitted"] >= beside["ended"].max()).all():  # the slot may come late
        raise Wrong(f"{name!r} was submitted after all others had ended. Submit it with them, and then wait.")
    if mine["ended"].max() <= beside["submitted"].min():
        raise Wrong(f"{name!r} had ended before the others were submitted. Submit it, and wait for it with the others.")
    tagged = frames.tagged(page.task_runs, limits.TAG)
    if not mine.index.isin(tagged.index).any() and not _took_a_slot(mine["task_run_id"], limits.TAG):
        raise Wrong(f"{name!r} ran without a slot, because it has no tag {limits.TAG!r}: one connection too many.")
    peak = frames.concurrency(tagged, page.until)["running"].max()
    if peak > limit:
        raise Wrong(f"{peak} queries ran at once, but only {limit} may. Do all of them have the tag?")
    return f"your query shares the slots with the others, and no more than {limit} queries ran at once."


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
    problems = {}
    for name, flow_run_id in sorted(waiting.items()):
        run = rest.send(endpoints.flow_run(flow_run_id))
        due = pd.to_datetime(run["expected_start_time"], utc=True) <= pd.Timestamp.now("UTC")
        right, hint = {
            "PAUSED": ("paused", "look at its state"),
            "RUNNING": ("no slot", "it has begun, so look at its task runs and their tags"),
        }.get(run["state_type"], ("no worker", "it is due") if due else ("not due", "look at when it is due"))
        if reasons.get(name) not in ("not due", "no worker", "paused", "no slot"):
            problems[name] = f"choose one of the four reasons for {name!r}."
        elif reasons[name] != right:
            problems[name] = f"{name!r} is {run['state_name']}, but waits for a different reason: {hint}."
        else:
            problems[name] = ""
    parts(problems)
    return "these are the reasons why the four runs wait."


@printing
def failed_filter(body: Mapping[str, Any]) -> str:
    """Grade 04, exercise 3: `body`, sent to flow_runs/filter, must select what the monitor shows as failed.

    It must do so also for runs of a flow, and with names, that the learner has not seen.
    """
    with exercises.unseen_runs(f"{records.PREFIX}-{uuid.uuid4().hex[:8]}"):
        failed = rest.rows(endpoints.flow_runs(state=endpoints.FAILED), 5000)
        try:
            selected = rest.send(endpoints.flow_runs()._replace(body=dict(body)))
        except CannotRun as error:  # the server's version is not to blame, as it may be elsewhere
            raise Wrong(str(error).partition(" This version of the server")[0]) from None
    if any(run["state_type"] not in endpoints.FAILED for run in selected):
        raise Wrong("it also selects runs that have not failed. Filter by the type of their state.")
    ids = {run["id"] for run in selected}
    missing = [run for run in failed if run["id"] not in ids][: max(0, rest.page() - len(selected))]
    if missing and len(selected) == body.get("limit"):
        raise Wrong(f"it selects {len(selected)} runs and leaves out the rest. Leave out the limit.")
    types, names = ({run[key] for run in missing} for key in ("state_type", "state_name"))
    if names == {"TimedOut"}:
        raise Wrong("it misses a run of the type FAILED, whose state has the name 'TimedOut'. Filter by the type.")
    if len(types) == 1:
        raise Wrong(f"it misses runs of the type {types.pop()}. A list may name several types.")
    if missing:
        raise Wrong("it misses failed runs of other flows or with other names. Filter by nothing but the state.")
    return "it selects what the monitor shows as failed."


def _took_a_slot(task_runs: Sequence[str], tag: str) -> bool:
    """Return whether one of these task runs took a slot of `tag` by `concurrency`, by the server's events."""
    runs = {"id": [f"prefect.task-run.{task_run}" for task_run in task_runs]}
    ended = {"event": {"name": [f"prefect.task-run.{state.title()}" for state in endpoints.FINAL]}, "resource": runs}
    acquired = {"event": {"name": ["prefect.concurrency-limit.acquired"]}, "related": runs}
    try:
        for _ in range(120):  # the server stores events some seconds after they happened, the earlier ones first
            if _events(ended):
                break
            time.sleep(0.5)
        return any(event["resource"].get("prefect.resource.name") == f"tag:{tag}" for event in _events(acquired))
    except CannotRun:  # Prefect 2 has no events, and no slots of a tag but a task's
        return False


def _events(chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    return rest.call("POST", "events/filter", {"filter": chosen})["events"]


def _accepted(configuration: Mapping[str, Any], url: str) -> diagnosis.Check:
    """Return how the server answers a program with this `configuration`. Raises Wrong if it does not accept it."""
    with environment(configuration):
        named = settings.read().prefect_api_url
        if named is not None:
            server.check_address(named)
        if named is None or _address(named) != _address(url):
            raise Wrong(f"PREFECT_API_URL is {named or 'not set'}, but the server is at {url}.")
        check = diagnosis.check(named)
        known = settings.read()
        both = known.prefect_api_auth_string is not None and known.prefect_api_key is not None
    if not check.accepted or both:
        raise Wrong(check.detail)
    return check


def _address(url: str) -> tuple[str, str | None, int | None, str]:
    """Return the parts of `url`, with one name for the loopback address, which has several."""
    address = urlsplit(url)
    host = "127.0.0.1" if address.hostname in ("localhost", "::1") else address.hostname
    return address.scheme, host, address.port, address.path
