"""The documents agree with the tree: links, names of modules, commands, messages and variables."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import copies
from flows import settings

PROJECT = settings.PROJECT
DOCUMENTS = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
NAMES = [str(document.relative_to(PROJECT)) for document in DOCUMENTS]
COMMANDS = (
    "uv sync",
    "cp .env.example .env",
    "prefecthq/prefect:2.13.7-python3.10 prefect server start --host 0.0.0.0",
    "export PREFECT_API_URL=http://localhost:4200/api",
    "python scripts/setup_concurrency_limit.py",
    "python flows/prefect_flow.py",
    "python scripts/test_prefect_auth.py",
    "streamlit run streamlit/main.py",
    "prefect deploy flows/prefect_flow.py:main_etl",
    "prefect concurrency-limit ls",
    "prefect config view",
    "curl http://localhost:4200/api/health",
)


def anchors(document: Path) -> set[str]:
    """The anchors that code hosts make of the headings of `document`."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def modules() -> Iterator[str]:
    for folder in ("flows", "flows/api", "flows/lab", "flows/monitor", "notebooks", "streamlit", "scripts"):
        yield from (str(file.relative_to(PROJECT)) for file in (PROJECT / folder).glob("*.py") if file.stem[0] != "_")


def texts() -> str:
    """Every text in the package, with … for each value that is put into it."""
    written = []
    for file in (PROJECT / "flows").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                written.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.append(node.value)
    return "\n".join(written)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings(name: str) -> None:
    document = PROJECT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), link
            assert not anchor or anchor in anchors(file), link


@pytest.mark.parametrize("name", NAMES)
def test_named_modules_exist(name: str) -> None:
    text = (PROJECT / name).read_text()
    for path in re.findall(r"(?<![\w./])(?:flows|streamlit|scripts|notebooks|tests)/[\w/]+\.\w+", text):
        assert (PROJECT / path).exists() or "06_workers" in path, path  # the example of a lesson that a reader adds
    for dotted in re.findall(r"\bflows\.\w+(?:\.\w+)*|(?<=from )flows(?:\.\w+)* import \w+", text):
        parts = dotted.replace(" import ", ".").split(".")
        path = PROJECT.joinpath(*parts)
        # The last part may be a function of the module.
        assert any(step.is_dir() or step.with_suffix(".py").exists() for step in (path, path.parent)), dotted


def test_the_map_has_every_module() -> None:
    text = (PROJECT / "docs/architecture.md").read_text().partition("## The map")[2]
    assert [module for module in modules() if f"`{module}`" not in text] == []


def test_the_readme_is_short_and_shows_every_command() -> None:
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) < 130
    assert [command for command in COMMANDS if command not in text] == []


def test_the_readme_lists_every_lesson() -> None:
    listed = re.findall(r"^\| \[(\w+)\]\(notebooks/", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert listed == copies.names()


def test_the_kit_has_the_messages_that_are_explained() -> None:
    text = (PROJECT / "docs/troubleshooting.md").read_text()
    ours = text.partition("## Messages of the kit")[2].partition("\n## ")[0]
    messages = re.findall(r"^\| `(.+?)`", ours, re.MULTILINE)
    assert messages
    all_texts = texts()
    for message in messages:
        pattern = ".+".join(map(re.escape, re.split(r"'[^']*'", message)))
        assert re.search(pattern, all_texts), message


def test_every_variable_is_explained() -> None:
    text = (PROJECT / ".env.example").read_text()
    assert [name for name in settings.Settings.model_fields if f"#{name.upper()}=" not in text] == []
