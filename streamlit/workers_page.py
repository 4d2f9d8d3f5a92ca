"""Who starts runs: work pools with their workers, deployments that a process serves, and whether they are alive."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import display
import live_page
import pandas as pd
import streamlit as st
import workers
from texts import plain, zone

from flows.api import endpoints, rest
from flows.monitor import frames

SERVED_SECONDS = 60  # the server calls a deployment not ready after so long without a question from its process


class Page(NamedTuple):
    """The work pools, the workers of each, the served deployments, the names of flows, and when it was read."""

    pools: frames.Rows
    of_pool: dict[str, frames.Rows]
    served: frames.Rows
    flows: dict[str, str]
    read_at: pd.Timestamp


def show() -> None:
    """Draw the page."""
    live_page.show("workers", "workers", load, lambda _: load(), _body)


def load() -> Page:
    """Load the page in 2 requests, one for each work pool, and one more if a deployment has no work pool."""
    pools, deployments = rest.gather(
        [rest.Request("POST", f"{kind}/filter", {"limit": rest.PAGE}) for kind in ("work_pools", "deployments")]
    )
    answers = rest.gather([workers.request(pool["name"]) for pool in pools])
    of_pool = {pool["name"]: answer or [] for pool, answer in zip(pools, answers, strict=True)}
    served = [one for one in deployments if not one.get("work_pool_name")]
    flows = rest.send(endpoints.flows(ids=list({one["flow_id"] for one in served}))) if served else []
    return Page(pools, of_pool, served, {flow["id"]: flow["name"] for flow in flows}, pd.Timestamp.now("UTC"))


def _body(page: Page) -> None:
    if not page.pools:
        st.caption("The server has no work pool. Create one: prefect work-pool create --type process NAME")
    for pool in page.pools:
        _pool(pool, page.of_pool[pool["name"]], page.read_at)
    if page.served:
        _served(page)


def _pool(pool: Mapping[str, Any], its_workers: frames.Rows, now: pd.Timestamp) -> None:
    alive = workers.alive(its_workers, now)
    with st.container(border=True, key=f"pool {pool['name']}"):
        limit = "no limit" if pool["concurrency_limit"] is None else f"limit {pool['concurrency_limit']}"
        st.markdown(
            f"**{plain(pool['name'])}** · {plain(pool['type'])} · {limit} · {sum(alive)} of {len(alive)} workers alive"
        )
        if pool["is_paused"]:
            st.warning("The work pool is paused: its workers take no run until somebody resumes it.")
        if not any(alive):
            command = f"prefect worker start --pool {pool['name']!r}"
            st.warning(plain(f"No worker polls it, so its runs become Late. Start one: {command}"))
        shown = {
            "worker": [worker["name"] for worker in its_workers],
            "": ["alive" if one else "gone" for one in alive],
            "last heartbeat": [f"{_ago(worker['last_heartbeat_time'], now)}" for worker in its_workers],
        }
        if its_workers:
            height = display.height(len(its_workers), 240)
            display.table(pd.DataFrame(shown), hide_index=True, height=height, alt="The workers of this work pool.")


def _served(page: Page) -> None:
    st.markdown("##### Deployments that a process serves")
    st.caption("They have no work pool: a process that calls .serve() asks the server for their runs.")
    rows = []
    for one in page.served:
        asked = one.get("last_polled")  # Prefect 2 does not have it
        recent = asked and (page.read_at - pd.Timestamp(asked)).total_seconds() < SERVED_SECONDS
        state = "unknown" if "last_polled" not in one else "served" if recent else "not served"
        name = f"{page.flows.get(one['flow_id'], '?')}/{one['name']}"
        rows.append({"deployment": name, "": state, "last asked": _ago(asked, page.read_at)})
    height = display.height(len(rows), 320)
    display.table(pd.DataFrame(rows), hide_index=True, height=height, alt="Deployments that a process serves.")


def _ago(time: str | None, now: pd.Timestamp) -> str:
    """Return how long ago `time` was, and when."""
    if time is None:
        return "never"
    then = pd.Timestamp(time)
    seconds = max(0, round((now - then).total_seconds()))
    return f"{seconds} s ago" if seconds < 120 else f"{then.tz_convert(zone()):%d %b %Y %H:%M:%S}"
