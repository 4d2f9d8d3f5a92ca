"""Make your own copy of the lessons, and open JupyterLab on a page that says how far you are in each.

python scripts/learn.py [--again LESSON …] [options of JupyterLab, such as --no-browser]
"""

import os
import sys

from flows import cli, settings

sys.path.insert(0, str(settings.PROJECT / "notebooks"))

import copies
import start


def main() -> int:
    """Copy what is missing, say what changed, and become JupyterLab."""
    parser = cli.Arguments(description="Your copy of the lessons, in JupyterLab. Other options go to JupyterLab.")
    parser.add_argument(
        "--again",
        nargs="+",
        default=[],
        choices=copies.names(),
        metavar="LESSON",
        help="copy these again; what you have is kept under another name",
    )
    arguments, of_jupyter = parser.parse_known_args()
    for sentence in copies.make(again=arguments.again):
        print(sentence)
    print(f"Your lessons are in {copies.FOLDER.name}/. JupyterLab opens now; Ctrl-C here ends it.", flush=True)
    page = f"/lab/tree/{start.write(copies.FOLDER).relative_to(settings.PROJECT)}"
    command = ["-m", "jupyter", "lab", f"--ServerApp.root_dir={settings.PROJECT}", f"--LabApp.default_url={page}"]
    os.execv(sys.executable, [sys.executable, *command, *of_jupyter])


if __name__ == "__main__":
    cli.run(main)
