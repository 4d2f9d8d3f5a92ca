"""The limits: how many slots are taken, who holds them, and buttons to change or delete a limit and free its slots."""

from typing import Any

import actions
import bar_charts
import dialogs
import display
import global_slots
import live_page
import refresh
import streamlit as st
from texts import plain

from flows import limits, versions
from flows.api.slots import MARK

MOST_HOLDERS = 20  # that are listed for a limit
KINDS: dict[str, limits.Kind] = {"a tag": "tag", "a global limit": "global"}


def show() -> None:
    """Draw the page."""
    live_page.show("limits", "limits", refresh.limits, lambda _: refresh.limits(), _body)


def _body(rows: Any) -> None:
    if not versions.is_3(st.session_state.get("version")):
        st.caption(
            "This server has no leases: it counts the entries in a list of holders. A run that was killed stays on"
            " that list, so its slots stay taken until you free them. Of a global limit it keeps only a number."
        )
    if rows.empty:
        st.caption(global_slots.NO_LIMIT)
    else:
        display.chart(bar_charts.slots(rows), "slots")
        for row in rows.to_dict("records"):
            _limit(row)
    if actions.allowed() and st.button("Add a limit", icon=":material/add:"):
        _add()


def _add() -> None:
    def body() -> None:
        st.write("At most this many task runs run at once; the rest wait.")
        st.radio("Of", list(KINDS), key="new_kind", horizontal=True)
        st.text_input("Tag", key="new_tag", help="The name of the tag, or of the global limit.")
        st.number_input("May run at once", min_value=1, value=3, key="new_limit")

    def add() -> None:
        chosen = st.session_state
        actions.add_limit(chosen.new_tag.strip(), KINDS[chosen.new_kind], int(chosen.new_limit))

    dialogs.confirm("Add a limit", body, "Add the limit", add)


def _limit(row: dict[str, Any]) -> None:
    key, label = row["tag"], plain(global_slots.label(row["tag"], row["freed"]), 60)
    with st.container(border=True, key=f"limit {key}"):
        columns = st.columns([3, 1, 1.3, 1], vertical_alignment="center")
        held = f", {row['held']} held" if not row["freed"] else f", {row['freed']:g} become free each second"
        name, kind = _named(row)
        over_time = f"[over time]({display.ledger_link(f'tag:{name}' if kind == 'tag' else name)})"
        columns[0].markdown(f"**{label}** · {row['taken']} of {row['limit']} slots taken{held} · {over_time}")
        if actions.allowed():
            if columns[1].button("Change", key=f"change {key}", icon=":material/edit:"):
                _change(row, label)
            free = columns[2].button(
                "Free slots", key=f"free {key}", icon=":material/lock_open:", disabled=row["taken"] == 0
            )
            if free:
                _free(row, label)
            if columns[3].button("Delete", key=f"delete {key}", icon=":material/delete:"):
                _delete(row, label)
        if row["limit"] <= 0:
            st.warning(f"The limit is {row['limit']}, so nothing may start.", icon=":material/warning:")
        if not row["freed"]:
            _holders(row)


def _holders(row: dict[str, Any]) -> None:
    leaked = row["taken"] - row["held"]
    if leaked > 0 and row["tag"].startswith(MARK):
        st.caption(
            f"Of {leaked} taken slots, no event names the holder. This is normal for a second, and for a minute after a"
            " run was killed; other programs may hold slots without sending events."
        )
    elif leaked > 0:
        st.warning(
            f"{leaked} slot{'s are' if leaked > 1 else ' is'} counted as taken, but no task run holds"
            f" {'them' if leaked > 1 else 'it'}. This is normal for a minute after a run was killed; if it lasts,"
            " free the slots.",
            icon=":material/warning:",
        )
    for holder in row["holders"][:MOST_HOLDERS]:
        name = plain(holder["name"] or holder["task_run_id"], 80)
        id_ = holder["flow_run_id"]
        link = f"[its run]({display.link(id_)})" if id_ else "the server knows no such run"
        st.markdown(f"{name} · {plain(holder['state'] or 'no state')} · {link}")
    if row["held"] > MOST_HOLDERS:
        st.caption(f"And {row['held'] - MOST_HOLDERS} more.")


def _named(row: dict[str, Any]) -> tuple[str, limits.Kind]:
    """Return the name of a limit on the server, and its kind."""
    return row["tag"].removeprefix(MARK), "global" if row["tag"].startswith(MARK) else "tag"


def _change(row: dict[str, Any], label: str) -> None:
    before = int(row["limit"])

    def body() -> None:
        st.write("Task runs that have a slot keep it. If more slots are taken than the new limit, others wait longer.")
        st.number_input("May run at once", min_value=1, value=max(1, before), key="new_limit")

    dialogs.confirm(
        f"Limit of {label}",
        body,
        "Change the limit",
        lambda: actions.set_limit(*_named(row), int(st.session_state.new_limit), before),
    )


def _free(row: dict[str, Any], label: str) -> None:
    def body() -> None:
        st.write(
            f"All {row['taken']} taken slots become free. A task run that is still running continues without a slot,"
            f" so more than {row['limit']} may run at once for a while. Do this only if those runs are dead."
        )

    dialogs.confirm(f"Free the slots of {label}?", body, "Free the slots", lambda: actions.free_slots(*_named(row)))


def _delete(row: dict[str, Any], label: str) -> None:
    def body() -> None:
        st.write("Without this limit, all tasks that it holds back run at once.")

    dialogs.confirm(f"Delete the limit of {label}?", body, "Delete it", lambda: actions.delete_limit(*_named(row)))
