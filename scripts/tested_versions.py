"""Write the table in docs/versions.md of what CI installs with each of its Pythons, from `uv.lock`.

python scripts/tested_versions.py
"""

import subprocess

import yaml
from packaging.requirements import Requirement

from flows import cli, files, settings

# What is installed beside each Prefect, as far as it is looked for here and in tests/test_wheels.py.
GROUPS = {"prefect3": ("lab", "learn", "dev", "dask", "redis"), "prefect2": ("lab", "learn", "dev")}
DOCUMENT = settings.PROJECT / "docs" / "versions.md"
HEAD = "| Python | Prefect 3 | Prefect 2 | JupyterLab | Streamlit | pandas | DuckDB |\n|---|---|---|---|---|---|---|\n"
SHOWN = ("jupyterlab", "streamlit", "pandas", "duckdb")


def main() -> int:
    """Put the table in the place of the one that is there."""
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(HEAD)
    _, _, after = rest.partition("\n\n")
    files.replace(DOCUMENT, f"{before}{table()}\n{after}")
    print(f"{DOCUMENT.relative_to(settings.PROJECT)} has the versions of today.")
    return 0


def table() -> str:
    """Return the table, in Markdown."""
    locked = {group: requirements(group) for group in GROUPS}
    rows = []
    for python in pythons():
        installed = {group: versions(locked[group], python) for group in GROUPS}
        both = [installed[group].get("prefect", "none") for group in GROUPS]
        rows.append(" | ".join([python, *both, *(installed["prefect3"][name] for name in SHOWN)]))
    return HEAD + "".join(f"| {row} |\n" for row in rows)


def pythons() -> list[str]:
    """Return the versions of Python that CI tests."""
    workflow = yaml.safe_load((settings.PROJECT / ".github" / "workflows" / "ci.yml").read_text())
    return workflow["jobs"]["test"]["strategy"]["matrix"]["python"]


def requirements(group: str) -> list[Requirement]:
    """Return what is installed with a group of GROUPS: exact versions, and markers that say on which machines."""
    command = ["uv", "export", "--frozen", "--no-hashes", "--no-emit-project", "--no-annotate", "--no-header"]
    chosen = [word for name in (group, *GROUPS[group]) for word in ("--group", name)]
    done = subprocess.run(
        [*command, "--no-default-groups", *chosen], cwd=settings.PROJECT, capture_output=True, text=True, check=True
    )
    return [Requirement(line) for line in done.stdout.splitlines()]


def of_machine(
    requirements: list[Requirement], python: str, system: str = "linux", processor: str = "x86_64"
) -> list[Requirement]:
    """Return those of `requirements` that this version of Python needs on such a machine."""
    environment = {
        "python_version": python, "python_full_version": f"{python}.9", "sys_platform": system, "os_name": "posix",
        "platform_system": system.capitalize(), "platform_machine": processor, "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    return [one for one in requirements if one.marker is None or one.marker.evaluate(environment)]


def versions(requirements: list[Requirement], python: str) -> dict[str, str]:
    """Return the version of each package that this Python gets on Linux."""
    return {one.name: next(iter(one.specifier)).version for one in of_machine(requirements, python)}


if __name__ == "__main__":
    cli.run(main)
