"""Incidents: the lab breaks, the learner mends it, and the state of the server and the database is the verdict.

They happen to the shop of `shop.py`. `incidents.toml` has their texts.
"""

import collections
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import tomli

import exercises
import lessons
import shop
from flows import limits, settings, versions
from flows.api import credentials, diagnosis, endpoints, rest, server
from flows.lab import keys
from flows.settings import CannotRun
from grading import Wrong, environment, print_verdict
from shop import SHOP

TEXTS: dict[str, dict[str, Any]] = tomli.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
ONLY_3 = ("drifted_counter", "refused_websocket")  # of Prefect 2's limits and its client, neither can happen
job: dict[str, Any] = {}  # the environment variables of the shop's nightly job, for the incidents about its access


class Broken(NamedTuple):
    """`wrong` returns what is still wrong, "" if nothing is; `parts` of names may change while it is mended."""

    wrong: Callable[[], str]
    parts: tuple[str, ...] = ()


@dataclass
class Incident:
    """One incident: what a user reports, hints, a check, and what there is to learn from it."""

    name: str
    title: str
    asked: int = 0
    broken: Broken = field(init=False)
    before: dict[str, Any] = field(init=False)  # what others have, which is to stay as it is

    def begin(self) -> None:
        """Break the lab, also if this incident was begun before, and print what the user reports."""
        print(f"{self.title}.", flush=True)
        job.clear()
        shop.clear()
        shop.plant()
        self.broken = BREAKS[self.name]()
        parts = self.broken.parts
        self.before = {what: s for what, s in shop.owned().items() if not any(part in what for part in parts)}
        print(TEXTS[self.name]["symptom"].strip())

    def hint(self) -> None:
        """Print the next one of the hints."""
        hints = TEXTS[self.name]["hints"]
        self.asked += 1
        if self.asked > len(hints):
            print("That was the last hint. incident.solution() shows one way to mend this incident.")
        else:
            print(f"Hint {self.asked} of {len(hints)}: {hints[self.asked - 1]}")

    def solution(self) -> None:
        """Print one way to mend the incident."""
        print(TEXTS[self.name]["solution"].strip())

    def check(self) -> None:
        """Print whether the incident is over, and what was destroyed on the way."""
        print_verdict(self.name, self._verdict)

    def _verdict(self) -> str:
        """Return what the incident teaches. Raises Wrong if it is not over, or if something else was destroyed."""
        if not lessons.begun():
            raise Wrong(
                "the lab was thrown away, and with it every limit, run, key and table, those of others too."
                " Run the lesson again from its first cell."
            )
        now = shop.owned()
        destroyed = [what for what, state in self.before.items() if now.get(what) != state]
        wrong = self.broken.wrong()
        if destroyed:
            verdict = f"{wrong[0].upper()}{wrong[1:]}" if wrong else "The incident itself is over."
            raise Wrong(
                f"you have destroyed or changed what others still need: {'; '.join(destroyed)}. {verdict}"
                " incident.begin() starts this incident again."
            )
        if wrong:
            raise Wrong(wrong)
        return f"the incident is over, and what others have is as it was.\n\n{TEXTS[self.name]['debriefing'].strip()}"


_drawn: collections.deque[Incident] = collections.deque()


def draw(seed: int) -> None:
    """Draw the order of the incidents, and show the shop as it is if nothing is broken. Raises CannotRun elsewhere."""
    if not server.is_lab(server.attach()) or settings.read().warehouse_url:
        raise CannotRun(
            "This lesson breaks things on purpose, so it works only on the kit's own lab. Unset PREFECT_API_URL and"
            " WAREHOUSE_URL, and start Jupyter again."
        )
    left_out = () if versions.is_3(versions.here()) else ONLY_3
    names = [name for name in BREAKS if name not in left_out]
    random.Random(seed).shuffle(names)
    _drawn.clear()
    _drawn.extend(Incident(name, f"Incident {place} of {len(names)}") for place, name in enumerate(names, 1))
    shop.clear()
    shop.plant()
    print(f"{len(names)} incidents are drawn.")
    if left_out:
        print("Two are left out, because Prefect 2 has neither leases nor a WebSocket for task runs.")


def next() -> Incident:
    """End the incident before, begin the next one, and return it. After the last one comes the first again."""
    _drawn.rotate(-1)
    _drawn[-1].begin()
    return _drawn[-1]


def leaked_slot() -> Broken:
    """Leave the slot of a task taken whose flow run has crashed, beside the slot of one that runs."""
    tag, dead = f"{SHOP}-orders", "orders of yesterday"
    limits.ensure(tag, 2)
    crashed = shop.hold(tag, dead)
    rest.send(endpoints.set_state(crashed, "CRASHED", "Crashed", "The machine has lost power.", force=True))
    shop.hold(tag, "orders of today")

    def wrong() -> str:
        limit = limits.read(tag)
        names = [holder["name"] for holder in limit.holders] if limit else []
        if dead in names or (limit and limit.active_slots > len(names)):
            return "only one order task can run at a time."
        return ""

    return Broken(wrong, (dead,))


def drifted_counter() -> Broken:
    """Let the counter of a limit say 3, while one task holds a slot."""
    tag = f"{SHOP}-invoices"
    limits.ensure(tag, 3)
    shop.hold(tag, "invoices of today")
    rest.send(endpoints.change_counter(f"tag:{tag}", active_slots=3))

    def wrong() -> str:
        limit = limits.read(tag)
        if limit and limit.active_slots != len(limit.holders):
            return f"{limit.active_slots} of {limit.limit} slots count as taken, while one invoice task runs."
        return ""

    return Broken(wrong)


def mistyped_tag() -> Broken:
    """Set a limit for another tag than the one that the tasks have."""
    tag, mistyped = f"{SHOP}-reports", f"{SHOP}-report"
    limits.ensure(mistyped, 2)
    run = shop.flow_run("reports")
    rest.gather([exercises.record_task_run(run, f"report {number}", tag, "RUNNING") for number in range(5)])
    return Broken(lambda: _limit_is_not(2, tag), (f"{mistyped}'",))


def missing_limit() -> Broken:
    """Leave a tag without a limit, whose queries the database then refuses."""
    tag = f"{SHOP}-stock"
    run = shop.flow_run("stock", "FAILED")
    states = 3 * ["COMPLETED"] + 3 * ["FAILED"]
    rest.gather([exercises.record_task_run(run, f"shelf {n}", tag, state) for n, state in enumerate(states)])
    return Broken(lambda: _limit_is_not(shop.connections(), tag))


def revoked_key() -> Broken:
    """Revoke the key of the nightly job."""
    url, holder = lessons.guarded("gateway"), f"{SHOP}-nightly"
    job.update(PREFECT_API_URL=url, PREFECT_API_KEY=keys.issue(holder))
    keys.revoke(holder)
    return Broken(lambda: _refused(url, holder), (holder,))


def refused_websocket() -> Broken:
    """Give the nightly job its key in the variable that Prefect's client leaves out when it opens the WebSocket."""
    url, holder = lessons.guarded("gateway"), f"{SHOP}-nightly"
    job.update(PREFECT_API_URL=url, PREFECT_API_KEY=keys.issue(holder))
    shop.flow_run("nightly", "COMPLETED")

    def wrong() -> str:
        if refused := _refused(url, holder):
            return refused
        with environment(job):
            sent = credentials.sent()
        if sent is None or sent.variable != credentials.HEADERS:
            return "the nightly job would again complete without a record of its task runs."
        return ""

    return Broken(wrong, (holder,))


def worker_down() -> Broken:
    """Let a flow run wait for a worker, since ten minutes."""
    rest.call("POST", "work_pools/", {"name": SHOP, "type": "process"})
    flow = rest.send(exercises.create_flow(SHOP))["id"]
    step = {"prefect.deployments.steps.set_working_directory": {"directory": str(Path(__file__).parent)}}
    code = {"entrypoint": "nightly.py:nightly", "pull_steps": [step]}
    deployment = {"name": "nightly", "flow_id": flow, "work_pool_name": SHOP} | code
    created = rest.call("POST", "deployments/", deployment)["id"]
    due = {"scheduled_time": (datetime.now(timezone.utc) - timedelta(minutes=10)).isoformat()}
    late = {"name": "nightly", "state": {"type": "SCHEDULED", "state_details": due}}
    run = rest.call("POST", f"deployments/{created}/create_flow_run", late)["id"]

    def wrong() -> str:
        now = rest.send(endpoints.flow_run(run))
        if now is None:
            return "the nightly run is gone, and nobody has run it."
        if now["state_type"] != "COMPLETED":
            waits = now["state_type"] == "SCHEDULED"
            return "the nightly run has not begun." if waits else f"the nightly run is {now['state_name']}."
        worked = rest.call("POST", f"work_pools/{SHOP}/workers/filter", {}, missing_ok=True)
        return "" if worked else "the nightly run is called Completed, but nobody has run it."

    return Broken(wrong)


def taken_connections() -> Broken:
    """Take the connections that the database has left, past Prefect, beside the one of a task with a slot."""
    tag, task_run, colleague = f"{SHOP}-sales", f"{SHOP}-dashboard", f"{SHOP}-ben"
    limits.ensure(tag, shop.connections())
    shop.hold(tag, task_run)
    shop.session(task_run, "select pg_sleep(86400)", wait=False)
    for _ in range(shop.connections() - 1):
        shop.session(colleague, "select count(*) from region")
    return Broken(lambda: _still(colleague, "the sales queries do not get all their connections."), (colleague,))


def hanging_query() -> Broken:
    """Let a task's query wait for a lock that a forgotten transaction holds."""
    tag, task_run, blocker = f"{SHOP}-regions", f"{SHOP}-count", f"{SHOP}-migration"
    limits.ensure(tag, 1)
    shop.hold(tag, task_run)
    shop.session(blocker, "lock table region in access exclusive mode", address=shop.owner())
    shop.session(task_run, "select count(*) from region", wait=False)
    return Broken(lambda: _still(blocker, "the query has no answer yet, so the task goes on."), (blocker,))


_BREAKING = (leaked_slot, drifted_counter, mistyped_tag, missing_limit, revoked_key, refused_websocket, worker_down)
BREAKS = {make.__name__: make for make in (*_BREAKING, taken_connections, hanging_query)}


def _limit_is_not(wanted: int, tag: str) -> str:
    """Return what is wrong with the limit of `tag`, which should be `wanted`."""
    limit = limits.read(tag)
    if limit is None:
        return "nothing makes these tasks wait, so all of them would run at once again."
    if limit.limit != wanted:
        return f"the tag {tag!r} has a limit now, but {limit.limit} is too {'high' if limit.limit > wanted else 'low'}."
    return ""


def _refused(url: str, holder: str) -> str:
    """Return why the server at `url` refuses the job, or whose key the job has if it is not that of `holder`."""
    with environment(job):
        verdict = diagnosis.check(url)
        sent = credentials.header().get("Authorization", "")
    if not verdict.accepted:
        return f"the server still refuses the nightly job. {verdict.detail}"
    whose = [name for name, key in keys.bearer().items() if sent.endswith(key.get_secret_value())]
    return "" if whose == [holder] else f"the nightly job has the key of {whose[0]!r} and not one of its own."


def _still(session: str, what: str) -> str:
    """Return `what` if the database has this session for longer than the moment that one needs to end, "" if not."""
    for _ in range(10):
        if not shop.sql("select 1 from pg_stat_activity where application_name = %s", session):
            return ""
        time.sleep(0.1)
    return what
