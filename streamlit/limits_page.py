"""The limits: how many slots are counted, who holds them, and the means to change and to free them."""

from typing import Any

import actions
import live
import shell
import streamlit as st

from flows import versions
from flows.monitor import charts, pages

MOST = 20  # holders of a limit that are listed


def show() -> None:
    """Draw the page."""
    live.page("limits", "limits", pages.limits, lambda _: pages.limits(), _body)


def _body(limits: Any) -> None:
    if not versions.line(st.session_state.get("version")).leases:
        st.caption(
            "This server has no leases: it keeps a list of the holders, and counts that. A run that was killed stays on"
            " the list, and its slots stay taken, until you free them."
        )
    if limits.empty:
        st.caption("No tag has a limit: tasks run as many at once as they are submitted.")
    else:
        shell.chart(charts.slots(limits), "slots")
        for limit in limits.to_dict("records"):
            _limit(limit)
    if actions.allowed() and st.button("Add a limit", icon=":material/add:"):
        _add()


def _add() -> None:
    def body() -> None:
        st.write("At most so many task runs with the tag run at once; the others wait.")
        st.text_input("Tag", key="new_tag")
        st.number_input("May run at once", min_value=1, value=3, key="new_limit")

    live.confirm(
        "Add a limit",
        body,
        "Add the limit",
        lambda: actions.add_limit(st.session_state.new_tag.strip(), int(st.session_state.new_limit)),
    )


def _limit(limit: dict[str, Any]) -> None:
    tag = limit["tag"]
    with st.container(border=True, key=f"limit {tag}"):
        columns = st.columns([4, 1, 1], vertical_alignment="center")
        columns[0].markdown(
            f"**{shell.plain(tag)}** · {limit['taken']} of {limit['limit']} slots taken, {limit['held']} held"
        )
        if actions.allowed():
            if columns[1].button("Change", key=f"change {tag}", icon=":material/edit:"):
                _change(limit)
            if columns[2].button(
                "Free slots", key=f"free {tag}", icon=":material/lock_open:", disabled=limit["taken"] == 0
            ):
                _free(limit)
        if limit["taken"] > limit["held"]:
            drift = limit["taken"] - limit["held"]
            st.warning(
                f"{drift} slot{'s are' if drift > 1 else ' is'} counted that nobody holds. That is so"
                " for a minute after a run has died; if it lasts, free them.",
                icon=":material/warning:",
            )
        for holder in limit["holders"][:MOST]:
            name = shell.plain(holder["name"] or holder["task_run_id"], 80)
            where = (
                f" · [its run](/run?id={holder['flow_run_id']})" if holder["flow_run_id"] else " · no run that is known"
            )
            st.markdown(f"{name} · {shell.plain(holder['state'] or 'no state')}{where}")
        if limit["held"] > MOST:
            st.caption(f"And {limit['held'] - MOST} more.")


def _change(limit: dict[str, Any]) -> None:
    def body() -> None:
        st.write("Task runs that have a slot keep it. If more are taken than may be, the next ones wait.")
        st.number_input("May run at once", min_value=1, value=max(1, int(limit["limit"])), key="new_limit")

    live.confirm(
        f"Limit of {shell.plain(limit['tag'], 60)}",
        body,
        "Change the limit",
        lambda: actions.set_limit(limit["tag"], int(st.session_state.new_limit)),
    )


def _free(limit: dict[str, Any]) -> None:
    def body() -> None:
        st.write(
            f"All {limit['taken']} taken slots become free. A task run that still runs goes on without its slot: for a"
            f" while more than {limit['limit']} may run at once. Right where the runs are dead."
        )

    live.confirm(
        f"Free the slots of {shell.plain(limit['tag'], 60)}?",
        body,
        "Free the slots",
        lambda: actions.free_slots(limit["tag"]),
    )
