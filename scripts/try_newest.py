"""Try what a newer date, and one upper bound less, would install: say what still works, and what breaks.

python scripts/try_newest.py [--group prefect3|prefect2] [--json]

Each trial is a copy of the project in a temporary folder, with an environment and a lab of its own. The first trial of
a group keeps its bounds and takes the newest versions; each further one leaves out one bound. Nothing here is changed.
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

from flows import cli, settings
from flows.settings import CannotRun

GROUPS = ("prefect3", "prefect2")
SHOWN = ("prefect", "fastapi", "griffe", "pydantic", "sqlalchemy", "streamlit", "typer", "uvicorn")
VERSIONS = """
import importlib.metadata, json, sys
known = {one.name.lower(): one.version for one in importlib.metadata.distributions()}
print(json.dumps({name: known[name] for name in sys.argv[1:] if name in known}))
"""
DEPLOY = """
import subprocess, sys
from flows import lab
server.use()
sys.exit(subprocess.call([sys.argv[1], "deploy", "flows/prefect_flow.py:main_etl"], stdin=subprocess.DEVNULL))
"""


@dataclass
class Trial:
    """How one trial went; `without` is the bound that was left out, `broke` the step that failed, if one did."""

    group: str
    without: str | None
    versions: dict[str, str]
    broke: str | None = None
    detail: str = ""


def main() -> int:
    """Run the trials and print what came of them. Returns 1 where the newest versions within the bounds break."""
    parser = cli.Arguments(description="Try the newest versions of what the kit depends on.")
    parser.add_argument("--group", choices=GROUPS, help="this group alone (default: both)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        raise CannotRun("There is no uv here, which makes the environments. Run python3 -m pip install uv.")
    groups = [arguments.group] if arguments.group else GROUPS
    if "prefect2" in groups and sys.version_info >= (3, 12):
        raise CannotRun(
            f"The group prefect2 needs Python 3.10 or 3.11, and this is {platform.python_version()}."
            " Choose --group prefect3, or run this with uv run --python 3.11."
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
    """The requirements of `group` that have an upper bound; one on an exact version is meant to stay."""
    project = tomli.loads((settings.PROJECT / "pyproject.toml").read_text())
    return [requirement for requirement in project["dependency-groups"][group] if "<" in requirement.split(";")[0]]


def loosened(text: str, bound: str | None) -> str:
    """`text` of pyproject.toml without `exclude-newer`, and with `bound` left out of its requirement."""
    text = re.sub(r"(?m)^exclude-newer = .*\n", "", text)
    return text.replace(f'"{bound}"', f'"{re.sub(r",?<[^,]*", "", bound)}"') if bound else text


def attempt(group: str, without: str | None) -> Trial:
    """Install the newest that the bounds allow, but for the bound `without`, and see whether the kit works with it."""
    trial = Trial(group, without, {})
    with tempfile.TemporaryDirectory(prefix="flows-newest-") as folder:
        copy = Path(folder) / "kit"
        _copy(copy)
        file = copy / "pyproject.toml"
        file.write_text(loosened(file.read_text(), without))
        python = str(copy / ".venv" / "bin" / "python")
        some = "busiest_clerks,days_between_orders,lines_per_order"
        of_app = "on_a_server or cancelled or read_only_holds"  # the Streamlit of either group can test these
        steps = {
            "install": _sync(group),
            "start the lab": [python, "scripts/lab.py", "up"],
            "main job": [python, "flows/prefect_flow.py", "--queries", some],
            "limit": [python, "scripts/setup_concurrency_limit.py", "--reset"],
            "authentication": [python, "scripts/test_prefect_auth.py"],
            "deploy": [python, "-c", DEPLOY, str(copy / ".venv/bin/prefect")],
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
                named = subprocess.run([python, "-c", VERSIONS, *SHOWN], capture_output=True, text=True, check=False)
                trial.versions = json.loads(named.stdout) if named.returncode == 0 else {}
    return trial


def _copy(to: Path) -> None:
    """Copy what git knows of the project, as it is in the working tree."""
    known = subprocess.run(["git", "ls-files", "-z"], cwd=settings.PROJECT, capture_output=True, text=True, check=False)
    if known.returncode != 0:
        raise CannotRun("The project is no git clone, so it is not known what to copy. Run this in a clone.")
    for name in filter(None, known.stdout.split("\0")):
        if (settings.PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(settings.PROJECT / name, to / name)


def _sync(group: str) -> list[str]:
    python = ["--python", sys.executable]
    return ["uv", "sync", "--no-default-groups", "--group", group, "--group", "learn", "--group", "dev", *python]


def _run(command: Sequence[str], folder: Path) -> str | None:
    """The last lines that `command` printed if it failed, else None. Raises CannotRun where the index is away."""
    ours = ("PREFECT_", "FLOWS_", "WAREHOUSE_URL", "UV_PROJECT_ENVIRONMENT", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
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
    what = f"{trial.group}, newest" + (f", without the bound {trial.without}" if trial.without else "")
    print(f"{what}: " + (f"broke at: {trial.broke}" if trial.broke else "works"), flush=True)
    print("  " + ", ".join(f"{name} {version}" for name, version in trial.versions.items()), flush=True)
    for line in trial.detail.splitlines():
        print(f"  | {line[:200]}", flush=True)


if __name__ == "__main__":
    cli.run(main)
