"""Load what the ledger of a limit is made of, and bring it up to date: events, task runs, and who holds slots now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

import ledger
import pandas as pd
import slot_events

from flows import versions
from flows.api import endpoints, rest
from flows.api.rest import Request
from flows.api.slots import MARK
from flows.monitor import frames, pages

MOST = 20_000  # events or task runs that are read
_PARTS = 12  # of the time that is loaded
_LATE = timedelta(seconds=30)  # after which the server certainly has an event
_SURE = timedelta(seconds=4)  # for which the server has to name a holder no more: its event may be on its way


@dataclass(frozen=True)
class Page:
    """The ledger of the limit `name` from `start` to `read_at`.

    `counted` are the taken slots that the server counts, `holders` the task runs that it names. `unheard` is since when
    it has named those of which there are no events, as if they were killed in that moment. `missed` is since when it
    does not name those who have not released their slot, by their `hold_id`. `source` is "events", "task runs", or None
    if there are neither.
    """

    version: str | None
    names: Sequence[str]
    name: str
    span: timedelta
    start: pd.Timestamp
    read_at: pd.Timestamp
    limit: int
    counted: int
    holders: Sequence[str]
    source: str | None
    events: pd.DataFrame
    task_runs: pd.DataFrame
    unheard: Mapping[str, pd.Timestamp]
    missed: Mapping[str, pd.Timestamp]

    @property
    def tag(self) -> str | None:
        """The tag that the limit is of, None for a global limit."""
        return self.name.removeprefix("tag:") if self.name.startswith("tag:") else None

    @cached_property
    def lanes(self) -> pd.DataFrame:
        """LANES of the limit: a hold has leaked if the server has named its holder no more for a while."""
        lanes = ledger.lanes(_holds(self), self.read_at, self.missed, _lapse(self))
        unsure = [hold for hold, since in self.missed.items() if self.read_at - since < _SURE]
        return lanes.assign(leaked=lanes["leaked"] & ~lanes["hold_id"].isin(unsure))


def load(name: str | None, span: timedelta) -> Page:
    """Load the ledger of the limit `name`, the first one if it is None, over the `span` until now.

    Raises Gone if the server has no such limit, or none at all.
    """
    version, now = rest.send(endpoints.version()), pd.Timestamp.now("UTC")
    limits = _limits()
    if not limits:
        raise pages.Gone("The server has no limit yet, so nothing has slots. Add one on the page Limits.")
    chosen = name or next(iter(limits))
    if chosen not in limits:
        raise pages.Gone(f"The server has no limit {chosen!r}. It may have been deleted. It has: {', '.join(limits)}.")
    empty = ledger.events([]), frames.task_runs([], now)
    page = Page(version, list(limits), chosen, span, now - span, now, 0, 0, (), None, *empty, {}, {})
    start, events = _events(chosen, now - span, now, _PARTS) if versions.is_3(version) else (now - span, empty[0])
    return _updated(replace(page, start=start, events=events), limits)


def refresh(page: Page) -> Page:
    """Return `page` as it is now."""
    now, limits = pd.Timestamp.now("UTC"), _limits()
    if page.name not in limits:
        raise pages.Gone(f"The limit {page.name!r} was deleted. Choose another one.")
    events = page.events
    if versions.is_3(page.version):
        _, new = _events(page.name, page.read_at - _LATE, now, 1)
        events = pd.concat([events, new]).drop_duplicates("event_id") if len(events) else new
    start, lanes = max(page.start, now - page.span), page.lanes
    over = lanes.loc[(lanes["until"] < start) & ~lanes["hold_id"].isin(page.missed), "hold_id"]
    old = events["event_id"].isin(over) | ((events["event"] == slot_events.RELEASED) & (events["time"] < start))
    return _updated(replace(page, start=start, read_at=now, names=list(limits), events=events[~old]), limits)


def _updated(page: Page, limits: Mapping[str, Mapping[str, Any]]) -> Page:
    """Return `page` with the task runs of its holders, and with those that the server names no more."""
    limit = limits[page.name]
    source = "events" if len(page.events) else "task runs" if page.tag else None
    named = {**dict.fromkeys(limit["holders"], page.read_at), **page.unheard}
    named = {one: at for one, at in named.items() if at >= page.start or one in limit["holders"]}
    heard = {*page.events["task_run_id"]}
    page = replace(page, unheard={one: at for one, at in named.items() if one not in heard})
    of_source = _named(page) if source == "events" else _tagged(page, limit["holders"])
    now = {"limit": limit["limit"], "counted": limit["taken"], "holders": limit["holders"]}
    page = replace(page, **now, source=source, task_runs=of_source)
    holds = _holds(page)
    unended = holds[holds["until"].isna()]
    if page.tag:
        missing = unended[~unended["task_run_id"].isin(limit["holders"])]
    else:  # nobody knows the holders of a global limit, but how many there are: those that were seen last
        missing = unended.sort_values("seen", ascending=False)[limit["taken"] :]
    # Whose last sign of life is older than any lease is not only on its way.
    first = (missing["seen"] + _lapse(page)).clip(upper=page.read_at)
    missed = {hold: page.missed.get(hold, since) for hold, since in zip(missing["hold_id"], first, strict=True)}
    return replace(page, source=source if len(holds) else None, missed=missed)


def _lapse(page: Page) -> timedelta:
    return ledger.LAPSE["tag" if page.tag else "global"]


def _holds(page: Page) -> pd.DataFrame:
    if page.source != "events":
        return ledger.from_task_runs(page.task_runs, page.limit)
    holds = ledger.holds(page.events, page.start, page.task_runs)
    # Those that hold a slot since before the start, and those without events.
    of_runs = ledger.from_task_runs(page.task_runs[page.task_runs["task_run_id"].isin(page.unheard)], page.limit)
    started = {*of_runs["task_run_id"]}
    unknown = ledger.from_holders({one: at for one, at in page.unheard.items() if one not in started}, page.limit)
    others = [frame for frame in (of_runs, unknown) if len(frame)]
    return pd.concat([*others, holds]).sort_values("since", ignore_index=True) if others else holds


def _limits() -> dict[str, dict[str, Any]]:
    """Return the rows of LIMITS by the names of the server's counters, with the ids of the holders."""
    limits: dict[str, dict[str, Any]] = {}
    for row in pages.limits(named=False).to_dict("records"):
        tag = row["tag"]
        name = tag.removeprefix(MARK) if tag.startswith(MARK) else f"tag:{tag}"
        limits[name] = row | {"holders": [holder["task_run_id"] for holder in row["holders"]]}
    return limits


def _events(name: str, since: pd.Timestamp, until: pd.Timestamp, parts: int) -> tuple[pd.Timestamp, pd.DataFrame]:
    """Return EVENTS of the limit `name`, and since when: later than `since` if there are more than MOST.

    The `parts` of the time are read side by side.
    """
    edges = list(pd.date_range(since, until, parts + 1))
    edges[-1] += timedelta(minutes=1)  # of a holder whose clock is ahead
    reads = [_read(name, *edges[part : part + 2]) for part in range(parts)]
    answers, rows, first = rest.gather(reads), [], 0
    totals = [answer["total"] for answer in answers]
    while sum(totals[first:]) > MOST and first < parts - 1:
        first += 1
    answers = answers[first:]
    while answers:
        rows += [event for answer in answers for event in answer["events"] if _is_of(event, name)]
        answers = rest.gather([page for answer in answers if (page := slot_events.next_page(answer))])
    return edges[first], ledger.events(rows)


def _read(name: str, since: pd.Timestamp, until: pd.Timestamp) -> Request:
    """Return the request for who took and gave back slots of the limit `name`, the oldest first."""
    occurred = {"since": since.isoformat(), "until": until.isoformat()}
    return slot_events.request(name, occurred=occurred, order="ASC")


def _is_of(event: Mapping[str, Any], name: str) -> bool:
    return event["resource"].get("prefect.resource.name") == name  # to the server, `*` and `!` in a name are patterns


def _named(page: Page) -> pd.DataFrame:
    """Return TASK_RUNS that the events name, and that hold slots; those that had ended before are not read again."""
    known = page.task_runs[page.task_runs["ended"].notna()]
    named = {*page.events["task_run_id"].dropna(), *page.unheard}
    known = known[known["task_run_id"].isin(named)]
    wanted = sorted(named.difference(known["task_run_id"]))
    size = rest.page()
    reads = [endpoints.task_runs(ids=wanted[first : first + size]) for first in range(0, len(wanted), size)]
    rows = [row for some in rest.gather(reads) for row in some]
    return _joined(known, rows, page.read_at)


def _tagged(page: Page, holders: Sequence[str]) -> pd.DataFrame:
    """Return TASK_RUNS of the tag that started since the page starts, or that hold slots."""
    if page.tag is None:
        return page.task_runs
    ended = page.task_runs[page.task_runs["ended"].notna() & (page.task_runs["ended"] >= page.start)]
    started = page.task_runs["started"].max()
    since = page.start if pd.isna(started) else max(page.start, started - _LATE)
    request = endpoints.task_runs(tag=page.tag)
    those = {**(request.body or {})["task_runs"], "start_time": {"after_": since.isoformat()}}
    rows = rest.rows(request._replace(body={**(request.body or {}), "task_runs": those}), MOST)
    unended = page.task_runs.loc[page.task_runs["ended"].isna(), "task_run_id"]
    ids = sorted({*holders, *unended}.difference(row["id"] for row in rows))[: rest.page()]
    return _joined(ended, rows + (rest.rows(endpoints.task_runs(ids=ids)) if ids else []), page.read_at)


def _joined(known: pd.DataFrame, rows: frames.Rows, now: pd.Timestamp) -> pd.DataFrame:
    both = pd.concat([known, frames.task_runs(rows, now)]) if len(known) else frames.task_runs(rows, now)
    return both.drop_duplicates("task_run_id", keep="last").sort_values("submitted", ignore_index=True)
