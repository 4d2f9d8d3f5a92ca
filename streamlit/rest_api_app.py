"""The REST explorer.

streamlit run streamlit/rest_api_app.py
"""

import streamlit as st
from display import errors_shown

st.set_page_config("REST explorer", page_icon=":material/api:", layout="wide")
st.markdown("#### REST explorer")
with errors_shown():
    import explorer_page
    import login
    import server_status

    if login.passed():
        server_status.sidebar()
        explorer_page.show()
