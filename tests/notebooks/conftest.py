"""The lab that the tests of the lessons share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labs import copy
from support.servers import forget_servers

from flows import lab


@pytest.fixture(scope="session")
def folder_of_the_lessons(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("lessons") / ".lab"
    copy(template, folder)
    yield folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWS_LAB_DIR", str(folder))
        lab.reset()


@pytest.fixture
def lab_folder(folder_of_the_lessons: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a lab that the lessons share, which this process uses as well."""
    forget_servers(monkeypatch)
    monkeypatch.setenv("FLOWS_LAB_DIR", str(folder_of_the_lessons))
    return folder_of_the_lessons
