"""The monitor: what runs, what waits and why, who holds the slots, what failed, and did the limit hold.

streamlit run streamlit/main.py
"""

import first_page
import limits_page
import live
import run_page
import start_page
import streamlit as st

st.set_page_config("Monitor", page_icon=":material/monitor_heart:", layout="wide")
page = st.navigation(
    [
        st.Page(first_page.show, title="Runs", icon=":material/list:", url_path="runs", default=True),
        st.Page(run_page.show, title="One run", icon=":material/timeline:", url_path="run"),
        st.Page(limits_page.show, title="Limits", icon=":material/stacked_bar_chart:", url_path="limits"),
        st.Page(start_page.show, title="Start", icon=":material/play_circle:", url_path="start"),
    ],
    position="top",
)
live.sidebar()
live.pace()
page.run()
