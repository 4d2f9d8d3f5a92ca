"""The charts of the ledger: a lane for each slot, and below it how many were taken against the limit."""

import altair as alt
import ledger
import ledger_database
import pandas as pd
import sessions

from flows.monitor import frames
from flows.monitor.charts import COLOURS, WIDTH, limit_line, styled

_MOST = 1500  # bars; with more, those that touch are drawn as one
_PIXELS = 1000
_KINDS = {"held": COLOURS["RUNNING"], "leaked: nobody used it": COLOURS["FAILED"]}


def over_time(
    lanes: pd.DataFrame, start: pd.Timestamp, now: pd.Timestamp, limit: int, seen: ledger_database.Seen | None = None
) -> alt.VConcatChart:
    """Draw LANES from `start` to `now`, and how many slots were taken; and what the database has `seen`."""
    within = lanes[lanes["until"] > start]
    bars = _touching(_bars(within, start), now - start)
    # The database is asked a moment after the server.
    end = now if seen is None else pd.Series([now, seen.samples["time"].max(), *(seen.refusals or [])]).max()
    scale = alt.Scale(domain=[start.isoformat(), end.isoformat()], type="time")
    x = alt.X("from:T").scale(scale).title(None)
    slots = max(limit, int(within["slot"].max()) + 1 if len(within) else 0)
    y = alt.Y("slot:O").scale(domain=list(range(1, slots + 1))).title("slot")
    colour = alt.Color("kind:N").scale(domain=list(_KINDS), range=list(_KINDS.values())).title(None)
    tooltip = [alt.Tooltip("holder:N"), alt.Tooltip("flow_run:N").title("flow run"), "kind:N"]
    tooltip += [alt.Tooltip(f"{end}:T").format("%Y-%m-%d %H:%M:%S") for end in ("from", "to")]
    tooltip.append(alt.Tooltip("seconds:Q").format(".1f"))
    drawn = alt.Chart(bars).mark_bar(height=alt.RelativeBandSize(band=0.8)).encode(x, y, x2="to:T", tooltip=tooltip)
    drawn = drawn.encode(color=colour.legend(orient="top"))
    drawn = drawn.properties(width=WIDTH, height=alt.Step(22), description=f"A lane for each of {slots} slots.")
    parts = [drawn, _line(ledger.taken(lanes, start, now), x, limit)]
    if seen is not None:
        parts.append(_sessions(seen, x, limit))
    both = alt.vconcat(*parts).resolve_scale(x="shared", color="independent")
    return styled(both.properties(description=_describe(within, slots, seen)))


def _bars(lanes: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """Return the bars of LANES: a leaked hold has one until the last sign of its holder, and one from then on."""
    held, leaked = _KINDS
    first = lanes.assign(to=lanes["seen"].where(lanes["leaked"], lanes["until"]), kind=held)
    second = lanes[lanes["leaked"]].assign(to=lanes["until"], kind=leaked)
    second["since"] = second["seen"]
    bars = pd.concat([first, second]).assign(slot=lambda rows: rows["slot"] + 1)
    bars["from"] = bars["since"].clip(lower=start)
    columns = ["slot", "kind", "from", "to", "holder", "flow_run"]
    return bars.loc[bars["to"] > bars["from"], columns].sort_values(["slot", "from"], ignore_index=True)


def _touching(bars: pd.DataFrame, span: pd.Timedelta) -> pd.DataFrame:
    if len(bars) > _MOST:
        by = ["slot", "kind"]
        bars = bars.sort_values([*by, "from"], ignore_index=True)
        new = bars["from"] - bars.groupby(by)["to"].shift() > span / _PIXELS
        groups = bars.assign(part=new.groupby([bars["slot"], bars["kind"]]).cumsum()).groupby([*by, "part"])
        merged = groups.agg(
            **{"from": ("from", "first")}, to=("to", "max"), holder=("holder", "first"), runs=("to", "size")
        )
        bars = merged.reset_index().drop(columns="part").assign(flow_run=None)
        many = bars["runs"] > 1
        bars["holder"] = bars["holder"].where(~many, bars["runs"].astype(str) + " holders, one after the other")
    return bars.assign(seconds=(bars["to"] - bars["from"]).dt.total_seconds())


def _line(steps: pd.DataFrame, x: alt.X, limit: int) -> alt.LayerChart:
    if len(steps) > 2 * _PIXELS:  # the highest of each pixel
        steps = steps.groupby(pd.cut(steps["time"], _PIXELS, labels=False)).max()
    steps = steps.rename(columns={"time": "from"}).astype({"running": "int64"})
    top = max(frames.peak(steps), limit) + 1
    y = alt.Y("running:Q").title("slots taken").axis(tickCount=min(top, 5), format="d").scale(domain=[0, top])
    tooltip = [alt.Tooltip("from:T").format("%H:%M:%S"), alt.Tooltip("running:Q").title("slots taken")]
    taken = alt.Chart(steps).mark_line(interpolate="step-after", color=COLOURS["RUNNING"]).encode(x, y, tooltip=tooltip)
    description = f"How many slots were taken at once, against the limit of {limit}."
    return alt.layer(taken, *limit_line(limit)).properties(width=WIDTH, height=140, description=description)


def _sessions(seen: ledger_database.Seen, x: alt.X, limit: int) -> alt.LayerChart:
    """Draw the sessions that the database saw, on the same axis, and a tick for each connection that it refused."""
    steps = sessions.steps(seen.samples).rename(columns={"time": "from"})
    kinds = {sessions.OURS: COLOURS["RUNNING"], sessions.OTHERS: COLOURS["CRASHED"], "refused": COLOURS["FAILED"]}
    colour = alt.Color("kind:N").scale(domain=list(kinds), range=list(kinds.values())).title(None)
    top = max(int(steps["sessions"].max()) if len(steps) else 0, limit) + 1
    y = alt.Y("sessions:Q").title("sessions").axis(tickCount=min(top, 5), format="d").scale(domain=[0, top])
    tooltip = [alt.Tooltip("from:T").format("%H:%M:%S"), "kind:N", alt.Tooltip("names:N")]
    line = alt.Chart(steps).mark_line(interpolate="step-after", point=alt.OverlayMarkDef(size=12))
    line = line.encode(x, y, color=colour.legend(orient="top"), tooltip=tooltip)
    layers = [line]
    if seen.refusals:
        refused = pd.DataFrame({"from": pd.to_datetime(list(seen.refusals), utc=True), "kind": "refused"})
        layers.append(alt.Chart(refused).mark_tick(thickness=2, size=12).encode(x, y=alt.value(6), color=colour))
    description = "How many sessions the database had at once, ours and others', and when it refused one."
    return alt.layer(*layers).properties(width=WIDTH, height=140, description=description)


def _describe(lanes: pd.DataFrame, slots: int, seen: ledger_database.Seen | None) -> str:
    if lanes.empty:
        return "Nobody held a slot in this time."
    leaked = int(lanes["leaked"].sum())
    return (
        f"A lane for each of {slots} slots: {len(lanes)} holds, {leaked or 'none'} of them leaked. Below, how many"
        f" slots were taken at once, against the limit{' and what the database saw' if seen else ''}."
    )
