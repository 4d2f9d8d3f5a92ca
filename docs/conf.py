"""The site: the README, these documents, the lessons with their stored outputs, and the docstrings of `flows`.

`uv run --group docs sphinx-build -W -c docs . site/html` makes it; `site/html/index.html` needs no server. Each text
is written once: the same files are read on GitHub, and their links work in both places.
"""

from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "Prefect concurrency learning kit"
html_title = project
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "docs/reference/flows*", "notebooks/*.ipynb"]
extensions = ["myst_nb", "sphinx.ext.apidoc", "sphinx.ext.autodoc"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # which would come from a network; the lessons show what their widgets say as text, too
myst_heading_anchors = 4

# One page for each module.
apidoc_modules = [{"path": "../flows", "destination": "docs/reference"}]
apidoc_module_first = apidoc_separate_modules = True
apidoc_max_depth = 1
apidoc_automodule_options = {"members"}
autodoc_member_order = "bysource"
default_role = "code"  # docstrings put code between single backticks

html_theme = "furo"
html_additional_pages = {"index": "index.html"}
html_js_files = ["scrolling.js"]
html_static_path = ["site/static"]
templates_path = ["site/templates"]
html_copy_source = False
html_show_copyright = False

CONTENTS = {
    "Lessons": ["notebooks/0*", "notebooks/playground"],
    "Limits": ["docs/concurrency_guide", "docs/performance", "docs/scaling", "docs/faults", "docs/upstream"],
    "Access": ["docs/authentication_guide", "docs/auth_quick_reference"],
    "Running it": ["docs/monitor", "docs/production", "docs/docker", "docs/prefect2", "docs/versions"],
    "Reference": ["docs/troubleshooting", "docs/glossary", "docs/architecture", "docs/reference/flows"],
    "Taking part": ["docs/contributing", "docs/teaching", "CHANGELOG"],
}


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the table of contents to the front page, which GitHub shows without one."""
    if page == root_doc:
        for caption, pages in CONTENTS.items():
            names = "\n".join(pages)
            source[0] += f"\n\n```{{toctree}}\n:caption: {caption}\n:hidden:\n:glob:\n\n{names}\n```\n"


def level_headings(app: Sphinx, page: str, template: str, context: dict[str, Any], *_: object) -> None:
    """Give the headings of the table of contents the level without which screen readers do not take them for any."""
    if tree := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')


def skip_fields(app: Sphinx, kind: str, name: str, member: object, *_: object) -> bool | None:
    """Leave out the fields of named tuples, which the signature shows already."""
    return True if (member.__doc__ or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Connect the functions above, and show diagrams as their source, which says the same: Mermaid needs a network."""
    app.connect("source-read", add_contents)
    app.connect("html-page-context", level_headings, priority=900)  # after Furo made them
    app.connect("autodoc-skip-member", skip_fields)
    app.add_lexer("mermaid", TextLexer)
