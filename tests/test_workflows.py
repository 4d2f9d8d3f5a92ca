"""The workflows: their form, and that what they run is there."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert named
    assert [name for name in named if not (settings.PROJECT / name).exists()] == []
