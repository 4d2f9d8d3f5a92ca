"""The limits: how many slots are taken, who holds them, and buttons to change a limit and to free its slots."""

from typing import Any

import actions
import bar_charts
import dialogs
import display
import live_page
import streamlit as st
from texts import plain

from flows import versions
from flows.monitor import pages

MOST_HOLDERS = 20  # that are listed for a limit


def show() -> None:
    """Draw the page."""
    live_page.show("limits", "limits", pages.limits, lambda _: pages.limits(), _body)


def _body(limits: Any) -> None:
    if not versions.is_3(st.session_state.get("version")):
        st.caption(
            "This server has no leases: it counts the entries in a list of holders. A run that was killed stays on"
            " that list, so its slots stay taken until you free them."
        )
    if limits.empty:
        st.caption("No tag has a limit, so all submitted tasks run at once.")
    else:
        display.chart(bar_charts.slots(limits), "slots")
        for limit in limits.to_dict("records"):
            _limit(limit)
    if actions.allowed() and st.button("Add a limit", icon=":material/add:"):
        _add()


def _add() -> None:
    def body() -> None:
        st.write("At most this many task runs with the tag run at once; the rest wait.")
        st.text_input("Tag", key="new_tag")
        st.number_input("May run at once", min_value=1, value=3, key="new_limit")

    dialogs.confirm(
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
            f"**{plain(tag)}** · {limit['taken']} of {limit['limit']} slots taken, {limit['held']} held"
            f" · [over time]({display.ledger_link(f'tag:{tag}')})"
        )
        if actions.allowed():
            if columns[1].button("Change", key=f"change {tag}", icon=":material/edit:"):
                _change(limit)
            if columns[2].button(
                "Free slots", key=f"free {tag}", icon=":material/lock_open:", disabled=limit["taken"] == 0
            ):
                _free(limit)
        leaked = limit["taken"] - limit["held"]
        if leaked > 0:
            st.warning(
                f"{leaked} slot{'s are' if leaked > 1 else ' is'} counted as taken, but no task run holds"
                f" {'them' if leaked > 1 else 'it'}. This is normal for a minute after a run was killed; if it lasts,"
                " free the slots.",
                icon=":material/warning:",
            )
        for holder in limit["holders"][:MOST_HOLDERS]:
            name = plain(holder["name"] or holder["task_run_id"], 80)
            id_ = holder["flow_run_id"]
            link = f"[its run]({display.link(id_)})" if id_ else "the server knows no such run"
            st.markdown(f"{name} · {plain(holder['state'] or 'no state')} · {link}")
        if limit["held"] > MOST_HOLDERS:
            st.caption(f"And {limit['held'] - MOST_HOLDERS} more.")


def _change(limit: dict[str, Any]) -> None:
    def body() -> None:
        st.write("Task runs that have a slot keep it. If more slots are taken than the new limit, others wait longer.")
        st.number_input("May run at once", min_value=1, value=max(1, int(limit["limit"])), key="new_limit")

    dialogs.confirm(
        f"Limit of {plain(limit['tag'], 60)}",
        body,
        "Change the limit",
        lambda: actions.set_limit(limit["tag"], int(st.session_state.new_limit)),
    )


def _free(limit: dict[str, Any]) -> None:
    def body() -> None:
        st.write(
            f"All {limit['taken']} taken slots become free. A task run that is still running continues without a slot,"
            f" so more than {limit['limit']} may run at once for a while. Do this only if those runs are dead."
        )

    dialogs.confirm(
        f"Free the slots of {plain(limit['tag'], 60)}?",
        body,
        "Free the slots",
        lambda: actions.free_slots(limit["tag"]),
    )
