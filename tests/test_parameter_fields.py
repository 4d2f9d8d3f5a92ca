"""The form that starts a deployment, made from the schema that Prefect itself makes of type hints. No server needed."""

import enum
import json
from datetime import date
from typing import Any, Literal

import pytest
from prefect import flow
from pydantic import SecretStr
from streamlit.testing.v1 import AppTest
from support.browsers import forget_scripts

from flows import settings

BIG, HIDDEN = 2**60, SecretStr("")
FORM = """
import json
import parameter_fields
import streamlit as st
from display import errors_shown

with st.form("start"):
    filled_in = parameter_fields.show(json.loads(st.query_params["deployment"]))
    if st.form_submit_button("Start"):
        with errors_shown():
            st.code(json.dumps(filled_in()))
"""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@flow
def odd(
    colour: Colour,
    sure: bool,
    name: str,
    day: date | None = None,
    rows: int | None = None,
    share: float | None = 0.5,
    level: Literal["low", "high", None] = "low",
    code: int | str = "7",
    either: bool | float = 1.5,
    seed: int = BIG,
    always: Literal["x"] = "x",
    key: SecretStr = HIDDEN,
    tags: list[str] | None = None,
    ratio: int | float = 2,
    any_: Any = None,
) -> None:
    """Take what a form has to offer a field for."""


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that shows the form of a deployment with this schema and parameters."""
    monkeypatch.syspath_prepend(str(settings.PROJECT / "streamlit"))
    forget_scripts()

    def show(schema: dict[str, Any], **parameters: Any) -> AppTest:
        app = AppTest.from_string(FORM, default_timeout=60)
        app.query_params["deployment"] = json.dumps(
            {"id": "one", "parameter_openapi_schema": schema, "parameters": parameters}
        )
        app.run()
        assert not app.exception
        return app

    return show


def started(app: AppTest) -> Any:
    """Return the parameters with which the form starts a run, or what it says instead."""
    app.button[0].click().run()
    assert not app.exception
    return json.loads(app.code[0].value) if app.code else app.error[0].value.replace("\\", "")


def test_each_type_gets_a_field_of_its_own(form) -> None:
    app = form(odd.parameters.model_dump_for_openapi())
    selects, numbers, texts = app.selectbox, app.number_input, app.text_input
    assert [(box.label, box.value) for box in selects] == [
        ("colour (required)", None),
        ("sure (required)", None),
        ("level", "low"),
        ("always", "x"),
    ]
    assert [(box.label.replace("\\", ""), box.value) for box in numbers] == [
        ("rows", None),
        ("share", 0.5),
        ("ratio", 2.0),
    ]
    assert [(box.label, box.value) for box in texts] == [
        ("name (required)", ""),
        ("day", ""),
        ("code", '"7"'),
        ("either", "1.5"),
        ("seed", str(BIG)),
        ("key", ""),
    ]
    assert [(box.label.replace("\\", ""), box.value) for box in app.text_area] == [
        ("tags (JSON)", ""),
        ("any_ (JSON)", ""),
    ]
    assert started(app) == "Nothing was started: fill in colour and sure and name, which the flow requires."
    app.selectbox[0].select("blue")
    app.selectbox[1].select(False)
    app.text_input[0].set_value("n")
    sent = started(app)
    assert sent == {
        "colour": "blue",
        "sure": False,
        "name": "n",
        "share": 0.5,
        "level": "low",
        "code": "7",
        "either": 1.5,
        "seed": BIG,
        "always": "x",
        "key": "",
        "ratio": 2.0,
    }
    odd.validate_parameters(sent)


def test_a_field_that_is_emptied_means_null_or_the_flow_s_default(form) -> None:
    schema = odd.parameters.model_dump_for_openapi()
    app = form(schema, colour="red", sure=True, name="n", day="2026-11-28", tags=["a"], code="x")
    assert [box.value for box in app.selectbox] == ["red", "low", "x"] and app.checkbox[0].value
    app.number_input[1].set_value(None)  # share: float | None
    app.selectbox[1].set_value(None)  # level
    app.text_area[0].set_value(" ")  # tags: list | None
    app.text_input[1].set_value("")  # day: date | None
    app.text_input[4].set_value("")  # seed: int, which may not be null
    sent = started(app)
    assert {name: sent[name] for name in ("share", "level", "tags", "day")} == dict.fromkeys(
        ("share", "level", "tags", "day")
    )
    assert "seed" not in sent and sent["code"] == "x"
    odd.validate_parameters(sent)


def test_a_text_is_read_as_one_of_the_types(form) -> None:
    app = form(odd.parameters.model_dump_for_openapi(), colour="red", sure=True, name="n")
    for name, text, becomes in [
        ("code", "7", 7),
        ("code", "7 days", "7 days"),
        ("code", '"7"', "7"),
        ("code", "7.5", "7.5"),
        ("code", "true", "true"),
        ("either", "false", False),
        ("either", "2", 2),
        ("either", "NaN", "The parameter either is 'NaN'. Fill in true or false or a number."),
        ("seed", str(BIG + 1), BIG + 1),
        ("seed", "1.0", "The parameter seed is '1.0'. Fill in a whole number."),
    ]:
        (field,) = [one for one in app.text_input if one.label == name]
        before = field.value
        field.set_value(text)
        sent = started(app)
        assert (sent if isinstance(sent, str) else sent[name]) == becomes, (name, text)
        (field,) = [one for one in app.text_input if one.label == name]
        field.set_value(before)


def test_json_that_cannot_be_sent_is_refused(form) -> None:
    app = form({"properties": {"a": {}}})
    for text in ("[1,", "[NaN]", "1e999", r'"\ud800"'):
        app.text_area[0].set_value(text)
        assert started(app).startswith("The parameter a is not valid JSON"), text
    app.text_area[0].set_value("null")
    assert started(app) == {"a": None}


def test_the_schemas_of_prefect_2_and_of_others(form) -> None:
    colour = {"title": "Colour", "enum": ["red", "blue"]}
    kinds = {
        "of_two": {"allOf": [{"$ref": "#/definitions/Colour"}], "position": 1},
        "optional": {"type": "integer", "position": 0},  # as Prefect 2 describes int | None
        "circle": {"$ref": "#/definitions/Circle", "position": 2},
        "changed": {"type": "integer", "default": "a text", "position": 3},
        "elsewhere": {"enum": ["a"], "default": "b", "position": 4},
    }
    circle = {"anyOf": [{"$ref": "#/definitions/Circle"}, {"type": "null"}]}
    schema = {"properties": kinds, "required": ["of_two"], "definitions": {"Colour": colour, "Circle": circle}}
    app = form(schema)
    assert [box.label.replace("\\", "") for box in app.selectbox] == ["of_two (required)"]
    assert [box.value for box in app.number_input] == [None]
    assert [box.value for box in app.text_area] == ["", '"a text"', '"b"']
    app.selectbox[0].select("red")
    assert started(app) == {"of_two": "red", "changed": "a text", "elsewhere": "b"}
