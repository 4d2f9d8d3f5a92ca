"""The form of the lessons: how they begin and end, how long their cells are, what is stored with them."""

import itertools
import re
import statistics
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import altair as alt
import pandas as pd
import pytest
from support.notebooks import FOLDER, GRADED, NAMES, code, prose, read, solution, tagged

import lessons
import records
from flows.monitor import charts


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_prose_outweighs_code_by_half(name: str) -> None:
    """Counted are the words in cells of text, hints included, over those in cells of code.

    Not counted are pictures' descriptions and code that is quoted in the text, such as the exercises' solutions.
    """
    notebook = read(name)
    lengths = [len([line for line in cell.source.splitlines() if line.strip()]) for cell in code(notebook)]
    assert max(lengths) <= 12 and statistics.median(lengths) <= 3
    words = len(re.sub(r"!\[[^]]*\]\([^)]*\)", "", prose(notebook)).split())
    of_code = sum(len(cell.source.split()) for cell in code(notebook))
    assert words >= 1.5 * of_code, f"{words} words of prose for {of_code} of code"


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_and_ends_as_every_lesson_does(name: str) -> None:
    notebook = read(name)
    top = notebook.cells[0].source
    for part in ("What you will do.", "What you will learn.", "What you need.", "How long it takes.", "!["):
        assert part in top
    assert len(re.findall(r"^- [a-z]", top, re.M)) >= 2, "objectives are verbs in a list"
    assert tagged(notebook, "parameters") == [1]
    assert code(notebook)[1].source.endswith("lessons.begin()")
    assert "lessons.end(" in notebook.cells[-1].source
    assert "**Next:**" in prose(notebook)


@pytest.mark.parametrize("name", NAMES)
def test_its_flows_have_names_by_which_the_end_removes_them(name: str) -> None:
    sources = "\n".join(cell.source for cell in code(read(name)))
    named = re.findall(r'\bflow\((?:.*, )?name="([^"]+)"', sources)
    named += re.findall(r'"(?:flows|work_pools)/", \{"name": "([^"]+)"', sources)
    assert len(re.findall(r"@flow\b", sources)) == sources.count("@flow(name=")
    assert all(flow.startswith(records.PREFIX) for flow in named), named


@pytest.mark.parametrize("name", NAMES)
def test_headings_come_in_order(name: str) -> None:
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose(read(name)), re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("name", NAMES)
def test_it_was_run_from_a_fresh_kernel_and_its_outputs_are_clean(name: str) -> None:
    notebook = read(name)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "nbval would compare it"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 500_000


@pytest.mark.parametrize("name", NAMES)
def test_pictures_say_what_they_show(name: str) -> None:
    notebook = read(name)
    written = re.findall(r"!\[([^]]*)\]", prose(notebook))
    pages = [str(output.data.get("text/html", "")) for cell in code(notebook) for output in cell.get("outputs", [])
             if "data" in output]  # fmt: skip
    drawn = [tag for page in pages for tag in re.findall(r"<img[^>]*>", page)]
    described = written + [alt[1] for tag in drawn if (alt := re.search(r'alt="([^"]*)"', tag))]
    assert len(described) == len(written) + len(drawn) > 0
    assert all(len(alt.split()) >= 5 for alt in described)
    assert not [output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, such as #0072b2, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return sum(share * value for share, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("picture", sorted((FOLDER / "images").glob("*.svg")), ids=lambda path: path.stem)
def test_the_text_in_a_diagram_can_be_read_in_a_light_and_in_a_dark_theme(picture: Path) -> None:
    """A diagram brings its own background, and a text is on that or on a filled box."""
    background, *shapes = ElementTree.parse(picture).getroot()
    assert (background.get("width"), background.get("height")) == ("100%", "100%"), "it would have that of the page"
    boxes: list[Element] = []
    for shape in shapes:
        if shape.tag.endswith("rect") and shape.get("fill") != "none":
            boxes.append(shape)
        if shape.tag.endswith("text"):
            below = [box for box in boxes if inside(shape, box)] or [background]
            assert contrast(str(shape.get("fill")), str(below[-1].get("fill"))) >= 4.5, shape.text


def inside(text: Element, box: Element) -> bool:
    """Return whether `text` begins inside `box`."""
    x, y, left, top, width, height = (
        float(value) for value in (text.get("x"), text.get("y"), *map(box.get, ("x", "y", "width", "height"))) if value
    )
    return left <= x <= left + width and top <= y <= top + height


def test_the_text_in_a_chart_can_be_read_on_white() -> None:
    """In the dark theme, the picture is inverted."""
    bound = alt.Chart(pd.DataFrame({"limit": [3]}), description="A limit.").encode(x="limit", y="limit", text="limit")
    picture = lessons.picture(charts.styled(bound.mark_text(color=charts.GREY)))
    colours = set(re.findall(r'<text[^>]* fill="([^"]*)"', picture.svg))
    assert colours and min(contrast(colour, "#ffffff") for colour in colours) >= 4.5, colours


@pytest.mark.parametrize("name", NAMES)
def test_code_in_a_fold_is_on_one_line(name: str) -> None:
    """JupyterLab would break it where the text is broken."""
    assert not re.findall(r"<code>[^<]*\n[^<]*</code>", prose(read(name)))


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(read(name)))
    assert links
    for link in links:
        assert link.startswith("https://") or (FOLDER / link).is_file(), link


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_machine_and_no_secret_is_in_it(name: str) -> None:
    text = re.sub(r"base64,[\w+/=]+", "", (FOLDER / f"{name}.ipynb").read_text())
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert not re.search(r"pnu_[\w-]{20}|Bearer [\w-]{20}|Basic [\w+/=]{20}", text)


@pytest.mark.parametrize("name", GRADED)
def test_exercises_have_a_stub_a_check_a_hint_and_a_hidden_solution(name: str) -> None:
    notebook = read(name)
    stubs, checks, solutions = (tagged(notebook, tag) for tag in ("exercise", "check", "solution"))
    assert len(stubs) == len(checks) == len(solutions) == 3 == prose(notebook).count("<summary>A hint</summary>")
    for stub, check, place in zip(stubs, checks, solutions, strict=True):
        assert stub < check < place
        assert notebook.cells[check].source.splitlines()[-1].startswith("checks.")
        hidden = notebook.cells[place]
        assert hidden.source.startswith("<details><summary>A solution</summary>\n\n") and solution(hidden)
        assert hidden.cell_type == "markdown", "Run All, or one Shift+Enter too many, would overwrite the answer"


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_has_room_before_what_it_is_about(name: str) -> None:
    cells = read(name).cells
    asked = [place for place, cell in enumerate(cells) if "**Predict first.**" in cell.source]
    assert len(asked) >= (2 if name in GRADED else 1)
    for place in asked:
        following = next(cell for cell in cells[place + 1 :] if cell.cell_type == "code")
        assert following.source.startswith("my_guess = ") and not following.outputs, cells[place].source


def test_the_playgrounds_button_can_be_pressed_after_all_cells_have_run() -> None:
    widgets = read("playground").metadata.widgets["application/vnd.jupyter.widget-state+json"].state.values()
    (button,) = [widget.state for widget in widgets if widget.model_name == "ButtonModel"]
    assert button.description == "Run" and not button.disabled
