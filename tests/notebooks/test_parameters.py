"""The lessons with other parameters than those that are stored, as a reader may choose them."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from support.notebooks import FOLDER, NAMES, code, text

PARAMETERS = {
    "playground": {"chosen": "4", "extra": "0.2"},
    "05_incidents": {"seed": "7"},
    "04_rest_queries": {"count": "6", "page_size": "4"},
    "03_parallel_flow": {"count": "5", "limit": "2"},
    "02_limits": {"queries": "8", "limit": "2", "seconds": "0.4"},
    "01_auth": {"https": "True", "holder": "eve"},
}


@pytest.mark.long
@pytest.mark.weekly
def test_all_lessons_run_on_one_lab_from_the_last_to_the_first(lab_folder: Path, tmp_path: Path) -> None:
    assert list(PARAMETERS) == sorted(NAMES, reverse=True), "each lesson has some"
    papermill = [Path(sys.executable).with_name("papermill"), "--cwd", FOLDER, "--no-progress-bar"]
    for name, parameters in PARAMETERS.items():
        chosen = [word for pair in parameters.items() for word in ("-p", *pair)]
        done = subprocess.run(
            [*papermill, "--execution-timeout", "150", FOLDER / f"{name}.ipynb", tmp_path / f"{name}.ipynb", *chosen],
            env=os.environ | {"FLOWS_LAB_DIR": str(lab_folder)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        cells = code(nbformat.read(tmp_path / f"{name}.ipynb", 4))
        assert any(text(cell).endswith("The lab is as you found it.\n") for cell in cells)
