"""JupyterLab opens on the lessons, reports no news, and has a tile in its launcher that starts the monitor.

JupyterLab passes the monitor through, so no other port is needed by those who work remotely.
"""

import sys
from typing import Any

from flows import settings

c = get_config()  # noqa: F821
c.LabApp.default_url = "/lab/tree/notebooks/01_auth.ipynb"
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"


def leave_out_announcements(_handler: object, page_config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of JupyterLab's page without the part that asks, in a corner, whether you want news."""
    page_config["disabledExtensions"].append("@jupyterlab/apputils-extension:announcements")
    return page_config


c.ServerApp.tornado_settings = {"page_config_hook": leave_out_announcements}
streamlit = [sys.executable, "-m", "streamlit", "run", str(settings.PROJECT / "streamlit" / "main.py")]
c.ServerProxy.servers = {
    "monitor": {
        "command": [*streamlit, "--server.port={port}", "--server.address=127.0.0.1", "--server.headless=true"],
        "timeout": 60,  # seconds
        "launcher_entry": {"title": "Monitor"},
    }
}
