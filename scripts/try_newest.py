"""Try the newest version of all that the kit depends on, and report what broke: `python scripts/try_newest.py`.

It works on a copy of the project in a temporary folder, in which `exclude-newer` and the upper bounds are left out; but
for those of the group `prefect2`, without which Prefect 2.13.7 can neither be installed nor started.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table

from flows import commands, settings

GROUPS = {
    "prefect3": ["flows/prefect_flow.py", "--json"],
    "prefect2": ["flows/prefect_flow.py", "--limit-by", "global", "--json"],
}
TESTS = ["tests/test_rest.py", "tests/test_limits.py", "tests/test_views.py"]


def unbounded(text: str) -> str:
    """`text`, a pyproject.toml, without `exclude-newer` and those bounds, for the Python that runs this alone."""
    known = tomli.loads(text)
    groups = known["dependency-groups"]
    for written in [*known["project"]["dependencies"], *groups["prefect3"], *groups["learn"], *groups["dev"]]:
        free = Requirement(written)
        free.specifier = SpecifierSet(",".join(str(one) for one in free.specifier if "<" not in one.operator))
        text = text.replace(f'"{written}"', f'"{free}"')
    text = re.sub(r"^exclude-newer.*\n", "", text, flags=re.M)
    version = f">={sys.version_info.major}.{sys.version_info.minor}"
    return re.sub(r"^requires-python.*$", f'requires-python = "{version}"', text, flags=re.M)


def attempt(group: str, project: Path) -> dict[str, Any]:
    """What came of one group: `group`, `broke` (the step, or None), `said` (its last lines), `newer` (by package)."""
    environment = project / f".venv-{group}"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "VIRTUAL_ENV"))}
    variables |= {"UV_PROJECT_ENVIRONMENT": str(environment), "FLOWS_LAB_DIR": str(project / f".lab-{group}")}
    chosen = ["--no-default-groups", "--group", group, "--group", "learn", "--group", "dev"]
    python = str(environment / "bin" / "python")
    steps = {
        "install": ["uv", "sync", "--quiet", *chosen],
        "main job": [python, *GROUPS[group]],
    }
    if group == "prefect3":
        steps["tests"] = [python, "-m", "pytest", "-q", *TESTS]
    found: dict[str, Any] = {"group": group, "broke": None, "said": "", "newer": {}}
    try:
        for step, command in steps.items():
            print(f"{group}: {step}", file=sys.stderr, flush=True)
            done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True)
            if done.returncode:
                lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()
                return found | {"broke": step, "said": "\n".join(lines[-5:])}
            if step == "install":
                found["newer"] = dict(_newer(group, python))
    finally:
        if Path(python).exists():
            subprocess.run([python, "scripts/lab.py", "reset"], cwd=project, env=variables, capture_output=True)
    return found


def main() -> int:
    """Try each group. Returns 1 where one broke."""
    parser = commands.Arguments(description="Try the newest versions, and report what broke.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not shutil.which("uv"):
        raise settings.CannotRun("There is no uv here, which installs the versions. Run pip install uv.")
    with tempfile.TemporaryDirectory(prefix="flows-newest-") as folder:
        project = Path(folder) / "project"
        leave = shutil.ignore_patterns(".git", ".venv*", ".lab*", "artifacts", "uv.lock", "__pycache__", ".*_cache")
        shutil.copytree(settings.PROJECT, project, ignore=leave)
        written = project / "pyproject.toml"
        written.write_text(unbounded(written.read_text()))
        found = [attempt(group, project) for group in GROUPS if group == "prefect3" or sys.version_info < (3, 12)]
    if arguments.json:
        commands.print_json({"groups": found, "broken": [one["group"] for one in found if one["broke"]]})
    else:
        table = Table("group", "broke at", "newer than here")
        for one in found:
            newer = "\n".join(f"{name} {old} -> {new}" for name, (old, new) in one["newer"].items())
            table.add_row(one["group"], one["broke"] or "nothing", newer or "nothing")
        Console().print(table)
        for one in found:
            if one["broke"]:
                print(f"{one['group']}, {one['broke']}:\n{one['said']}")
    return 1 if any(one["broke"] for one in found) else 0


def _newer(group: str, python: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The packages that are newer than in this project's own environment for the group, by name."""
    own = settings.PROJECT / (".venv" if group == "prefect3" else ".venv-prefect2") / "bin" / "python"
    before, after = _installed(str(own)), _installed(python)
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield name, (before[name], after[name])


def _installed(python: str) -> dict[str, str]:
    if not Path(python).exists():
        return {}
    listed = subprocess.run(
        ["uv", "pip", "list", "--python", python, "--format", "json"], capture_output=True, text=True
    )
    return {one["name"]: one["version"] for one in json.loads(listed.stdout or "[]")}


if __name__ == "__main__":
    commands.run(main)
