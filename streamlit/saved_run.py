"""A run to take away: one HTML file with its charts, task runs and logs, which needs neither a server nor a network.

Everything that comes from the server is escaped, and a policy in the file lets a browser run none but its own scripts.
"""

import functools
import json
import secrets
from collections.abc import Iterable
from html import escape
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st
import vl_convert
from texts import zone

from flows.api import endpoints, rest
from flows.monitor import frames, pages

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
h1, td:first-child, td:last-child { overflow-wrap: anywhere }
figure { margin: 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .3rem 0 }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #80808060 }
th, td { white-space: nowrap }
td:first-child, td:last-child { white-space: pre-wrap; min-width: 12rem }
"""
DRAW = """
const spec = JSON.parse(document.getElementById("spec").textContent)
vegaEmbed("#chart", spec, { actions: false, renderer: "svg" })
"""


def offer(page: pages.Run, verdict: str, drawn: Any) -> None:
    """Show a button that saves the run as an HTML file, with the `verdict` on its limit and the chart as `drawn`."""
    lines, viewer = endpoints.logs(flow_run=page.flow_run["flow_run_id"]), zone()
    st.download_button(
        "Save as HTML",
        lambda: document(page, verdict, drawn, frames.logs(rest.rows(lines)), viewer),
        "run.html",
        "text/html",
        on_click="ignore",
        icon=":material/download:",
        help="One file with the charts, the task runs and all log lines. It opens without a server.",
    )


def document(page: pages.Run, verdict: str, drawn: Any, logs: pd.DataFrame, viewer: str) -> str:
    """Return the file's text; its times are in the time zone `viewer`."""
    run, nonce = page.flow_run, secrets.token_urlsafe(16)
    clock = functools.partial(_clock, viewer=viewer)
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'nonce-{nonce}' 'unsafe-eval'"
    names = page.task_runs.set_index("task_run_id")["name"]
    tasks = zip(
        page.task_runs["name"],
        page.task_runs["state"],
        page.task_runs["submitted"].map(clock),
        page.task_runs["waited_seconds"].map("{:.1f}".format),
        page.task_runs["ran_seconds"].map(lambda seconds: "" if pd.isna(seconds) else f"{seconds:.1f}"),
        page.task_runs["attempts"],
        page.task_runs["message"].fillna(""),
        strict=True,
    )
    lines = zip(
        logs["time"].map(clock),
        logs["level"],
        logs["task_run_id"].map(names).astype(object).fillna(""),
        logs["message"],
        strict=True,
    )
    columns = ("task run", "state", "submitted", "waited (s)", "ran (s)", "attempts", "message")
    facts = f"{run['flow']} · {run['state']} · started {clock(run['started'])} · ended {clock(run['ended'])}"
    # In a script, "<" could begin the tag that ends it.
    spec = json.dumps(drawn.to_dict()).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(f"{run['name']} · {run['flow']}")}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(str(run["name"]))}</h1>
<p>{escape(facts)}</p>
<p>{escape(run["message"] or "")}</p>
<p><strong>{escape(verdict)}</strong></p>
<p>Read at {clock(page.read_at)}. Times are in {escape(viewer)}. The flow run's id is {escape(run["flow_run_id"])}.</p>
<h2>Timeline, and how many ran at once</h2>
<figure>
<div class="wide" role="region" aria-label="Timeline" tabindex="0"><div id="chart"></div></div>
<figcaption>{escape(drawn.description)}</figcaption>
</figure>
<h2>Task runs</h2>
{_table(f"{len(page.task_runs)} task runs, in the order of their submission", columns, tasks)}
<h2>Logs</h2>
{_table(f"{len(logs)} lines", ("time", "level", "task run", "message"), lines)}
</main>
<script type="application/json" id="spec" nonce="{nonce}">{spec}</script>
<script nonce="{nonce}">{_script()}</script>
</body>
</html>
"""


def _table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" role="region" aria-label="{escape(caption)}" tabindex="0">{table}</div>'


@functools.cache
def _script() -> str:
    """Return the script that draws the chart, with all that it needs. The first time takes seconds."""
    return vl_convert.javascript_bundle(DRAW, "_".join(alt.SCHEMA_VERSION.split(".")[:2]))


def _clock(time: pd.Timestamp, viewer: str) -> str:
    return "-" if pd.isna(time) else f"{time.tz_convert(viewer):%Y-%m-%d %H:%M:%S.%f}"[:-3]
