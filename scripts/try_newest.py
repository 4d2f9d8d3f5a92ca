"""Try the kit with the newest packages, and without each upper bound: report what works and what breaks.

python scripts/try_newest.py [--group prefect3|prefect2] [--json]

Each trial is a copy of the project in a temporary folder, with an environment and a lab of its own. The first trial of
a group takes the newest versions within its bounds; each further one leaves out one bound. The project itself stays as
it is.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tomli
from packaging.requirements import Requirement

from flows import cli, settings
from flows.settings import CannotRun

GROUPS = ("prefect3", "prefect2")
SHOWN = ("prefect", "fastapi", "griffe", "jupyterlab", "pydantic", "sqlalchemy", "streamlit", "typer", "uvicorn")
VERSIONS = """
import importlib.metadata, json, sys
installed = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
print(json.dumps({name: installed[name] for name in sys.argv[1:] if name in installed}))
"""
DEPLOY = """
import subprocess, sys
from flows.api import server
server.use()
sys.exit(subprocess.call([sys.argv[1], "deploy", "flows/prefect_flow.py:main_etl"], stdin=subprocess.DEVNULL))
"""


@dataclass
class Trial:
    """How one trial went: `without` is the bound that was left out, and `broke` the step that failed, if any."""

    group: str
    without: str | None
    versions: dict[str, str]
    broke: str | None = None
    detail: str = ""


def main() -> int:
    """Run the trials and print their results. Returns 1 if the newest versions within the bounds break."""
    parser = cli.Arguments(description="Try the kit with the newest versions of its packages.")
    parser.add_argument("--group", choices=GROUPS, help="try only this group (default: both)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        raise CannotRun("uv, which makes the environments, was not found. Install it with python3 -m pip install uv.")
    groups = [arguments.group] if arguments.group else GROUPS
    if "prefect2" in groups and sys.version_info >= (3, 12):
        raise CannotRun(
            f"The group prefect2 needs Python 3.10 or 3.11, but this is Python {platform.python_version()}."
            " Choose --group prefect3, or use uv run --python 3.11."
        )
    trials = []
    for group in groups:
        for bound in (None, *bounds(group)):
            trials.append(attempt(group, bound))
            if not arguments.json:
                _show(trials[-1])
    movable = not any(trial.broke for trial in trials if trial.without is None)
    if arguments.json:
        cli.print_json({"movable": movable, "trials": [asdict(trial) for trial in trials]})
    else:
        print("`exclude-newer` can be moved to today." if movable else "`exclude-newer` has to stay as it is.")
    return 0 if movable else 1


def bounds(group: str) -> list[str]:
    """Return the requirements of `group` that have an upper bound and apply to this Python."""
    project = tomli.loads((settings.PROJECT / "pyproject.toml").read_text())
    bounded = []
    for line in project["dependency-groups"][group]:
        requirement = Requirement(line)
        applies = requirement.marker is None or requirement.marker.evaluate()
        if applies and "<" in str(requirement.specifier):
            bounded.append(line)
    return bounded


def loosened(text: str, bound: str | None) -> str:
    """Return `text`, which is pyproject.toml, without `exclude-newer` and without the upper bound in `bound`."""
    text = re.sub(r"(?m)^exclude-newer = .*\n", "", text)
    if bound is None:
        return text
    versions, semicolon, marker = bound.partition(";")
    return text.replace(f'"{bound}"', f'"{re.sub(r",?<[^,]*", "", versions)}{semicolon}{marker}"')


def attempt(group: str, without: str | None) -> Trial:
    """Install the newest versions that the bounds allow, leaving out the bound `without`, and try the kit with them."""
    trial = Trial(group, without, {})
    with tempfile.TemporaryDirectory(prefix="flows-newest-") as folder:
        copy = Path(folder) / "kit"
        _copy(copy)
        file = copy / "pyproject.toml"
        file.write_text(loosened(file.read_text(), without))
        python = str(copy / ".venv" / "bin" / "python")
        queries = "busiest_clerks,days_between_orders,lines_per_order"
        lesson = ("notebooks/playground.ipynb", str(copy / "executed.ipynb"), "-p", "chosen", "3")
        of_app = "on_a_server or cancelled or read_only_holds"  # the ones that the Streamlit of either group can run
        steps = {
            "install": _sync(group),
            "start the lab": [python, "scripts/lab.py", "up"],
            "main job": [python, "flows/prefect_flow.py", "--queries", queries],
            "limit": [python, "scripts/setup_concurrency_limit.py", "--reset"],
            "authentication": [python, "scripts/test_prefect_auth.py"],
            "deploy": [python, "-c", DEPLOY, str(copy / ".venv/bin/prefect")],
            "lesson": [python, "-m", "papermill", "--cwd", "notebooks", *lesson],
            "tests": [python, "-m", "pytest", "-q", "tests/test_app.py", "-k", of_app],
        }
        try:
            for step, command in steps.items():
                failure = _run(command, copy)
                if failure is not None:
                    trial.broke, trial.detail = step, failure
                    break
        finally:
            if Path(python).exists():
                _run([python, "scripts/lab.py", "reset"], copy)
                shown = subprocess.run([python, "-c", VERSIONS, *SHOWN], capture_output=True, text=True, check=False)
                trial.versions = json.loads(shown.stdout) if shown.returncode == 0 else {}
    return trial


def _copy(to: Path) -> None:
    """Copy the files that git tracks, as they are in the working tree."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=settings.PROJECT, capture_output=True, text=True, check=False)
    if files.returncode != 0:
        raise CannotRun("This project is not a git clone, which tells what to copy. Run this script in a clone.")
    for name in filter(None, files.stdout.split("\0")):
        if (settings.PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(settings.PROJECT / name, to / name)


def _sync(group: str) -> list[str]:
    groups = [word for name in (group, "lab", "learn", "dev") for word in ("--group", name)]
    return ["uv", "sync", "--no-default-groups", *groups, "--python", sys.executable]


def _run(command: Sequence[str], folder: Path) -> str | None:
    """Run `command` and return its last lines if it failed, else None. Raises CannotRun if the index is unreachable."""
    removed = ("PREFECT_", "FLOWS_", "WAREHOUSE_URL", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "It did not end within 10 minutes."
    if done.returncode == 0:
        return None
    if command[0] == "uv" and ("error sending request" in done.stderr or "Failed to fetch" in done.stderr):
        cause = done.stderr.strip().splitlines()[-1].strip()
        raise CannotRun(f"The package index cannot be reached: {cause}. Try again later.")
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    return "\n".join(lines[-6:]).replace(str(folder), "…")


def _show(trial: Trial) -> None:
    title = f"{trial.group}, newest versions" + (f", without the bound {trial.without}" if trial.without else "")
    print(f"{title}: " + (f"broke at: {trial.broke}" if trial.broke else "works"), flush=True)
    print("  " + ", ".join(f"{name} {version}" for name, version in trial.versions.items()), flush=True)
    for line in trial.detail.splitlines():
        print(f"  | {line[:200]}", flush=True)


if __name__ == "__main__":
    cli.run(main)
