"""docs/contributing.md can be followed: its hooks find what they are for, and a new lesson comes with passing tests."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers import forget_servers

from flows import settings

LEFT_OUT = shutil.ignore_patterns(".git", ".lab", "my_lessons", "artifacts", "__pycache__", ".venv*", ".*_cache")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a copy of the project, which the programs of this environment take for the project."""
    forget_servers(monkeypatch)
    folder = tmp_path / "kit"
    shutil.copytree(settings.PROJECT, folder, ignore=LEFT_OUT)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    # `uv run` takes this environment too, instead of making one for the copy.
    monkeypatch.setenv("UV_PROJECT", str(settings.PROJECT))
    monkeypatch.setenv("UV_NO_SYNC", "1")
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    yield folder


def shell(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, capture_output=True, text=True, check=False, timeout=900
    )


def test_the_hooks_pass_here_and_find_what_they_are_for(clone: Path) -> None:
    # The form of the lessons has its own test.
    hooks = "git add -A && SKIP=lessons pre-commit run --all-files --color never"
    passed = shell(f"git init -q . && {hooks}", clone)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    (clone / "streamlit" / "long.py").write_text("x = 1;import os\n")
    (clone / "notebooks" / "01_auth.ipynb").write_text(
        (clone / "notebooks" / "01_auth.ipynb").read_text().replace("lessons.begin()", "lessons.begin( )")
    )
    (clone / "docs" / "typo.md").write_text("You will reci" + "eve a key.\n")
    (clone / "docs" / "secret.md").write_text("-----BEGIN " + "RSA PRIVATE KEY-----\n")
    (clone / "docs" / "key.md").write_text("PREFECT_API_KEY=pnu_" + 36 * "a" + "\n")
    (clone / "docs" / "big.json").write_text(1_100_000 * " ")
    failed = shell(hooks, clone)
    verdicts = dict(re.findall(r"^(.+?)\.{3,}(?:\(.*\))?(\w+)$", failed.stdout, re.MULTILINE))
    assert verdicts.pop("form of the lessons") == "Skipped"
    assert set(verdicts.values()) == {"Failed"} and len(verdicts) == 6, failed.stdout + failed.stderr
    for name in ("long.py", "typo.md", "secret.md", "key.md", "big.json"):
        assert name in failed.stdout, name


@pytest.mark.long
@pytest.mark.weekly
def test_a_new_lesson_can_be_added_by_following_the_document(clone: Path) -> None:
    section = (clone / "docs" / "contributing.md").read_text().partition("## Add a lesson\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^    (.+)$", section, re.MULTILINE)
    assert len(commands) == 6
    # The form of the other lessons has its own test.
    followed = "\n".join(commands).replace("test_form.py", "test_form.py -k 06_workers")
    done = shell(followed, clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    again = shell("python scripts/new_lesson.py 06_others", clone)
    assert again.returncode == 2 and "The number 06 is that of 06_workers." in again.stderr
