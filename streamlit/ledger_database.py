"""The database's side of the ledger: sampled at each refresh of the page, and kept in the viewer's session."""

from collections.abc import Sequence
from typing import NamedTuple

import ledger_source
import pandas as pd
import sessions
import streamlit as st
from texts import plain, zone

from flows import limits
from flows.settings import CannotRun

_MOST = 5000  # rows of samples that are kept


class Seen(NamedTuple):
    """What the database saw: SAMPLES, and when it refused a connection, None if that cannot be read."""

    samples: pd.DataFrame
    refusals: Sequence[pd.Timestamp] | None


def look(page: ledger_source.Page) -> Seen | None:
    """Return what the database has seen since this page was opened, and say who goes past the limit; None if unasked.

    Only the limit that protects the database is compared with it.
    """
    if limits.TAG not in (page.tag, page.name):
        return None
    try:
        lab = sessions.of_lab()
        if not lab and not st.toggle("Ask the database", help="Takes one of the role's connections at each refresh."):
            return None
        read_at, samples = st.session_state.get("sampled", (None, sessions.none()))
        if read_at != page.read_at:
            samples = pd.concat([samples, sessions.sample()]).tail(_MOST) if len(samples) else sessions.sample()
            st.session_state.sampled = page.read_at, samples
        refused = sessions.refusals(page.start)
    except CannotRun as error:
        st.caption(f"The database was not asked: {plain(error, 500)}")
        return None
    _say(samples, refused, page)
    return Seen(samples[samples["time"] >= page.start], refused)


def _say(samples: pd.DataFrame, refused: Sequence[pd.Timestamp] | None, page: ledger_source.Page) -> None:
    newest = samples["time"].max()
    for other in sessions.others(samples).to_dict("records"):
        now = other["last"] == newest
        number = f"{other['sessions']} session{'s' if other['sessions'] > 1 else ''}"
        (st.warning if now else st.info)(
            f"**{plain(other['name'], 80)}** goes past Prefect: {number} of the role {plain(other['role'], 60)} in the"
            f" database, {'now' if now else 'last seen at ' + _clock(other['last'])}. The limit does not"
            f" count {'it' if other['sessions'] == 1 else 'them'}.",
            icon=":material/directions_run:",
        )
    if refused:
        st.warning(
            f"The database refused {len(refused)} connection{'s' if len(refused) > 1 else ''} because its role had all"
            f" that it may have, the last one at {_clock(refused[-1])}.",
            icon=":material/block:",
        )
    first = _clock(samples["time"].min())
    where = "are from its log" if refused is not None else "cannot be read from here"
    st.caption(
        f"The database's sessions are sampled at each refresh of this page, since {first}, and kept in this tab only."
        f" Shorter ones may be missed. Its refusals {where}."
    )


def _clock(time: pd.Timestamp) -> str:
    return f"{time.tz_convert(zone()):%H:%M:%S}"
