"""Each command that documents and lessons show is run by a test or by CI, or is named here with the reason why not.

A new command in a document fails the first test until it has a line in one of the lists.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.commands import FLOW, run
from support.notebooks import prose, read

import copies
from flows import settings
from flows.api import rest, server

PROJECT = settings.PROJECT
DOCUMENTS = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
PROGRAMS = (
    "bash|cp|curl|dask|docker|export|for|git|jupyter|mkdir|papermill|pip|prefect|pytest|python|streamlit|sudo|uv|\\."
)

# The last test runs these, as the documents show them, on a lab. `localhost:4200` becomes the lab's address.
HERE = [
    "cp .env.example .env",
    "curl http://localhost:4200/api/health",
    "prefect config view",
    "prefect automation create --from-file flows/lab/zombies.json",
    "prefect deploy --prefect-file scripts/retention.yaml --all",
    "prefect deploy flows/prefect_flow.py:main_etl",
    "prefect deployment run main_etl/main_etl",
    "prefect deployment schedule ls main_etl/main_etl",
    "prefect deployment schedule resume main_etl/main_etl ID",
    "python scripts/setup_concurrency_limit.py --global",
]
# What a command begins with, the file that runs it, and the text there that does. The longest beginning counts.
ELSEWHERE = {
    "bash .ci/run": (".github/workflows/ci.yml", "bash .ci/run"),
    "dask scheduler": ("tests/test_dask.py", '"scheduler"'),
    "dask worker": ("tests/test_dask.py", '"worker"'),
    "export FLOWS_LAB_DIR": ("tests/test_contributing.py", "following_the_document"),
    "export PREFECT_API_URL": ("tests/test_versions.py", '"PREFECT_API_URL"'),
    "export PREFECT_API_KEY": ("tests/test_versions.py", '"PREFECT_API_KEY"'),
    "export PREFECT_CLIENT_CUSTOM_HEADERS": ("tests/support/guards.py", "PREFECT_CLIENT_CUSTOM_HEADERS"),
    "export WAREHOUSE_URL": ("tests/test_warehouse.py", '"WAREHOUSE_URL"'),
    "jupyter lab": ("tests/notebooks/test_jupyterlab.py", '"lab"'),
    "jupyter nbconvert": ("tests/test_contributing.py", "following_the_document"),
    "papermill": (".ci/run", "papermill --cwd notebooks"),
    "prefect concurrency-limit ls": ("tests/test_prefect2.py", '"concurrency-limit", "ls"'),
    "prefect deploy --all": ("tests/test_drills.py", '"deploy", "--all"'),
    "prefect deployment run": ("tests/test_shown_commands.py", "prefect deployment run main_etl/main_etl"),
    "prefect profile": ("tests/test_values.py", '"profile"'),
    "prefect server start": ("scripts/engines.py", '"server", "start"'),
    "prefect worker start": ("tests/test_run_control.py", '"worker", "start"'),
    "pytest -n 0 --nbval": (".ci/run", "pytest -n 0 --nbval notebooks"),
    "pytest -n 0 tests/notebooks/test_form.py": ("tests/test_contributing.py", "following_the_document"),
    "pytest -n 0 -m long tests/notebooks/test_06": ("tests/test_contributing.py", "following_the_document"),
    "pytest": (".ci/run", "uv run pytest"),
    "python flows/prefect_flow.py": (".ci/run", "python flows/prefect_flow.py"),
    "python flows/prefect_flow.py --limit-by global": (".ci/run", "prefect_flow.py --limit-by global"),
    "python flows/prefect_flow.py --runner dask": ("tests/test_dask.py", '"--runner", "dask"'),
    "python scripts/bench.py": (".ci/run", "python scripts/bench.py"),
    "python scripts/lab.py": ("tests/test_lab.py", "run(LAB"),
    "python scripts/lab.py up --auth": ("tests/test_gateway.py", "--auth"),
    "python scripts/learn.py": ("tests/notebooks/test_copies.py", "scripts/learn.py"),
    "python scripts/metrics.py": ("tests/test_metrics.py", "scripts/metrics.py"),
    "python scripts/mutate_lessons.py": (".github/workflows/weekly.yml", "scripts/mutate_lessons.py"),
    "python scripts/new_lesson.py": ("tests/test_contributing.py", "new_lesson.py"),
    "python scripts/retention.py": ("tests/test_retention.py", "run(RETENTION"),
    "python scripts/setup_concurrency_limit.py": ("tests/test_limits.py", "run(LIMIT"),
    "python scripts/tested_versions.py": ("tests/test_wheels.py", "tested_versions.table()"),
    "python scripts/simulate_slots.py": ("tests/test_scaling.py", "simulate_slots"),
    "python scripts/test_prefect_auth.py": ("tests/test_imports.py", "scripts/test_prefect_auth.py"),
    "python scripts/try_newest.py": (".github/workflows/newest.yml", "scripts/try_newest.py"),
    "streamlit run streamlit/main.py": ("tests/test_browser.py", "main.py"),
    "streamlit run streamlit/rest_api_app.py": ("tests/test_browser.py", "rest_api_app.py"),
    "lint-imports": (".ci/run", "lint-imports"),
    "pre-commit run": ("tests/test_contributing.py", "pre-commit run --all-files"),
    "sphinx-build": ("tests/test_site.py", '"sphinx-build"'),
    "sphinx-build -b linkcheck": (".github/workflows/weekly.yml", "sphinx-build -b linkcheck -c docs . site/links"),
    "uv sync": (".ci/run", "uv sync"),
    "uv sync --group dask": ("tests/conftest.py", '"--group", "dask"'),
    "uv sync --no-group lab": ("tests/test_imports.py", '"--no-group", "lab"'),
    "uv sync --no-default-groups": (".ci/run", "--no-default-groups"),
}
NOT_RUN = {
    "docker": "takes Docker; tests/test_compose.py checks compose.yaml",
    "export POSTGRES_PASSWORD": "is for Docker",
    "export PREFECT_API_URL=https://": "needs a server or an account of your own",
    "export HOME": "is for containers without a home folder",
    "export UV_EXCLUDE_NEWER": "is for an index that gives no dates",
    ". ": "only activates an environment",
    "for n in": "is a loop of the main job, as above",
    "git clone": "names an example",
    "mkdir": "makes a folder",
    "sudo apt-get": "installs a Debian package, as .ci/run does",
    "pre-commit install": "writes to .git",
    "prefect concurrency-limit create": "is a part of a bug report",
    "prefect concurrency-limit reset": "is a part of a bug report",
    "prefect work-pool create": "is for a server of your own; the lab has this pool already",
    "python flow.py": "is a part of a bug report",
    "python scripts/growth.py": "measures for a quarter of an hour",
    "python scripts/scaling.py": "measures for minutes; tests/test_scaling.py checks its parts",
    "python scripts/servers.py": "runs until Ctrl-C; tests/test_servers.py checks its parts",
    "streamlit run streamlit/main.py --server.fileWatcherType": "is for editing the monitor",
    "uv": "is only the program's name",
}


def texts() -> dict[str, str]:
    """Return the text of each document and of each lesson, by its name."""
    lessons = {name: prose(read(name)) for name in copies.names()}
    return {document.name: document.read_text() for document in DOCUMENTS} | lessons


def shown(text: str) -> list[str]:
    """Return what `text` shows as code: the lines of its blocks, and what stands between backticks in its sentences."""
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    sentences = re.sub(r"^    .*$|```[^`]*```", "", text, flags=re.MULTILINE)
    spans = re.findall(r"`([^`]+)`|<code>([^<]+)</code>", sentences)
    return lines + [span for span in (" ".join("".join(both).split()) for both in spans) if " " in span]


def commands() -> dict[str, str]:
    """Return the commands that the documents and lessons show, and where: without variables and `uv run`."""
    found = {}
    for name, text in texts().items():
        for line in shown(text):
            command = re.sub(r"\s+#.*", "", line)
            command = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", command.removeprefix("pip install uv && "))
            command = re.sub(r"^uv run(?: --[\w-]+(?: (?!python|pytest|sphinx)\w+)?)* ", "", command)
            command = re.sub(r"^\.venv\S*/bin/", "", command)
            if re.match(rf"(?:{PROGRAMS}|lint-imports|pre-commit|sphinx-build)(?: |$)", command):
                found[command.strip()] = name
    return found


def test_each_command_of_the_documents_is_run() -> None:
    known = {*HERE, *ELSEWHERE, *NOT_RUN}
    used, missing = set(), []
    for command, document in commands().items():
        beginnings = [known_one for known_one in known if command.startswith(known_one)]
        beginnings = [one for one in beginnings if one not in HERE or one == command]
        if beginnings:
            used.add(max(beginnings, key=len))
        else:
            missing.append(f"{document}: {command}")
    assert missing == [], "add each to a list of this module, and say where it is run, or why it is not"
    assert known - used == set(), "no document shows these any more"


@pytest.mark.parametrize("begins", ELSEWHERE)
def test_what_runs_a_command_is_there(begins: str) -> None:
    file, text = ELSEWHERE[begins]
    assert text in (PROJECT / file).read_text()


def programs() -> list[str]:
    """Return the Python programs in the documents that users run in the kit, in an order in which they can be run."""
    names = "auth_quick_reference.md", "authentication_guide.md", "architecture.md"
    blocks = [re.findall(r"^((?:    .*\n|\n(?=    ))+)", texts()[name], re.MULTILINE) for name in names]
    chosen = [textwrap.dedent(block).strip() for of_one in blocks for block in of_one]
    return [block.replace("…", "...") for block in chosen if block.startswith(("import ", "from "))]


@pytest.mark.long
def test_these_commands_work_as_shown(copied_lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = server.use()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    python = [f"python -c {shlex.quote(program)}" for program in programs()]
    assert len(python) == 3
    assert run(FLOW, "--queries", "revenue_by_region_and_year").returncode == 0  # for a mart to open
    for command in [*HERE, *python]:
        typed = command.replace("http://localhost:4200/api", address)
        if typed.endswith(" ID"):  # of the schedule in prefect.yaml, which a command before this one deployed
            (schedule,) = rest.call("GET", "deployments/name/main_etl/main_etl")["schedules"]
            typed = typed.replace(" ID", f" {schedule['id']}")
        typed = re.sub(r" \.env$", f" {copied_lab}/.env", typed)  # in the project, other tests would read it
        done = subprocess.run(
            typed, shell=True, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
