"""The monitor: what runs, what waits and why, who holds the slots, what failed, and whether the limit held.

streamlit run streamlit/main.py
"""

import streamlit as st
from display import errors_shown

st.set_page_config("Monitor", page_icon=":material/monitor_heart:", layout="wide")
with errors_shown():
    import ledger_page
    import limits_page
    import live_page
    import login
    import run_page
    import runs_page
    import server_status
    import start_page
    import workers_page

    page = st.navigation(
        [
            st.Page(runs_page.show, title="Runs", icon=":material/list:", url_path="runs", default=True),
            st.Page(run_page.show, title="One run", icon=":material/timeline:", url_path="run"),
            st.Page(limits_page.show, title="Limits", icon=":material/stacked_bar_chart:", url_path="limits"),
            st.Page(workers_page.show, title="Workers", icon=":material/engineering:", url_path="workers"),
            st.Page(ledger_page.show, title="Ledger", icon=":material/view_timeline:", url_path="ledger"),
            st.Page(start_page.show, title="Start", icon=":material/play_circle:", url_path="start"),
        ],
        position="top",
    )
    st.set_page_config(f"{page.title} · Monitor")
    st.html(f'<h1 class="spoken">{page.title}</h1>')
    if login.passed():
        server_status.sidebar()
        live_page.interval()
        page.run()
