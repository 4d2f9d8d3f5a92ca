"""The workflows, the dev container and Binder's files: their form, and that what they run is there and works."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_contributing import LEFT_OUT
from test_machines import reachable

from flows import settings

FILES = sorted((settings.PROJECT / ".github" / "workflows").glob("*.yml"))


def test_the_workflows_are_valid_by_their_schema() -> None:
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *FILES]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_what_a_workflow_runs_is_there(file: Path) -> None:
    words = file.read_text().replace("|", " ").split()
    named = [word for word in words if word.startswith(("scripts/", ".ci/"))]
    assert named or file.stem == "site"
    assert [name for name in named if not (settings.PROJECT / name).exists()] == []


def test_the_site_is_published_as_the_document_builds_it() -> None:
    workflow = (settings.PROJECT / ".github" / "workflows" / "site.yml").read_text()
    documented = (settings.PROJECT / "docs" / "contributing.md").read_text()
    (command,) = re.findall(r"^    (uv run .*sphinx-build -W .*)$", documented, re.MULTILINE)
    steps = yaml.safe_load(workflow)["jobs"]["build"]["steps"]
    assert {"run": command} in steps
    assert steps[-1]["with"]["path"] == command.split()[-1]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_workflow_may_do_little_and_uses_github_s_own_actions(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"]["contents"] == "read"
    jobs = [*workflow["jobs"].values()]
    rights = [right for part in (workflow, *jobs) for right in part.get("permissions", {}).items()]
    may_write = {f"{file.stem} {name}" for name, may in rights if may != "read"}
    assert may_write <= {"newest issues", "site pages", "site id-token"}
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []
    assert all("timeout-minutes" in job for job in jobs)


def test_the_dev_container_starts_the_lab_and_forwards_its_ports() -> None:
    """Each field is one of the specification's; the schema of it is not to be had without a network."""
    container = json.loads((settings.PROJECT / ".devcontainer" / "devcontainer.json").read_text())
    fields = {"name", "image", "hostRequirements", "postCreateCommand", "postStartCommand", "forwardPorts"}
    assert set(container) <= fields | {"portsAttributes", "containerEnv", "customizations"}
    assert set(container["hostRequirements"]) <= {"cpus", "memory", "storage", "gpu"}
    assert {int(port) for port in container["portsAttributes"]} == set(container["forwardPorts"])
    assert {4200, 8501, 8888} <= set(container["forwardPorts"])
    for port in container["portsAttributes"].values():
        assert set(port) <= {"label", "onAutoForward", "protocol", "requireLocalPort", "elevateIfNeeded"}
        assert port["onAutoForward"] in {"notify", "openBrowser", "openBrowserOnce", "openPreview", "silent", "ignore"}
    for command in (container["postCreateCommand"], container["postStartCommand"]):
        for word in command.split():
            assert not word.startswith("scripts/") or (settings.PROJECT / word).exists()


def launchers() -> dict[str, list[str]]:
    """Return the commands with which each launcher makes the environment, and starts the lab."""
    container = json.loads((settings.PROJECT / ".devcontainer" / "devcontainer.json").read_text())
    # uv is here already, and the tests install nothing for all users.
    install = container["postCreateCommand"].replace("python -m pip install --user uv && python -m uv", "uv")
    return {
        "dev container": [install, container["postStartCommand"]],
        "Binder": [".binder/postBuild", ".binder/start jupyter lab --version"],
    }


@pytest.mark.long
@pytest.mark.weekly
@pytest.mark.parametrize("launcher", ["dev container", "Binder"])
def test_the_commands_of_a_launcher_work_for_a_user_with_an_empty_home(launcher: str, tmp_path: Path) -> None:
    """As in a new container: a copy of the kit without an environment, whose files are the user's."""
    assert os.getuid() == 0, "another user takes root; run the tests with sudo, as .ci/run does"
    folder, home = tmp_path / "kit", tmp_path / "home"
    shutil.copytree(settings.PROJECT, folder, ignore=LEFT_OUT)
    home.mkdir()
    reachable(folder)
    tmp_path.chmod(0o755)
    subprocess.run(["chown", "-R", "4321:4321", folder, home], check=True)
    may = [f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    as_user = ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups", *may]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "LANG", "UV_", "SSL_"))}
    variables = kept | {"HOME": str(home), "UV_PYTHON": sys.base_exec_prefix + "/bin/python3", "UV_LINK_MODE": "copy"}
    for command in [*launchers()[launcher], ".venv/bin/python scripts/lab.py reset"]:
        done = subprocess.run(
            [*as_user, "bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
