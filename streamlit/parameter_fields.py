"""Fields for the parameters of a deployment, by the JSON schema that Prefect makes from the flow's type hints."""

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import streamlit as st
from texts import plain

from flows.settings import CannotRun

# The types that values have in JSON, and what messages call them.
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
CALLED = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}


class Field(NamedTuple):
    """A field as it was filled in: its content, None if it is empty, and how to read that.

    `null` is whether an empty field means null. If not, the parameter is left out, so the flow's own default applies.
    """

    content: Any
    read: Callable[[Any], Any]
    null: bool


def show(deployment: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """Show a field for each parameter of a deployment; return a function that returns the parameters as filled in.

    That function raises CannotRun if a required parameter is missing, or a text is not what its parameter takes.
    """
    schema, own = deployment.get("parameter_openapi_schema") or {}, deployment.get("parameters") or {}
    in_order = sorted((schema.get("properties") or {}).items(), key=lambda one: one[1].get("position", 0))
    required = [name for name, _ in in_order if name in (schema.get("required") or []) and name not in own]
    fields = {}
    for name, about in in_order:
        label = f"{plain(about.get('title') or name, 60)}{' (required)' if name in required else ''}"
        possible = _possible(about, schema.get("definitions") or {})
        value = own.get(name, about.get("default"))
        help_ = plain(about.get("description") or "", 1000) or None
        fields[name] = _field(name, label, possible, value, key=f"{deployment['id']} {name}", help=help_)

    def filled_in() -> dict[str, Any]:
        if missing := [name for name in required if fields[name].content is None]:
            raise CannotRun(f"Nothing was started: fill in {' and '.join(missing)}, which the flow requires.")
        given = {name: field for name, field in fields.items() if field.content is not None or field.null}
        return {name: None if field.content is None else field.read(field.content) for name, field in given.items()}

    return filled_in


def _possible(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the schemas of which a value has to follow one, with references followed."""
    if reference := about.get("$ref"):
        name = reference.rpartition("/")[2]
        others = {other: schema for other, schema in definitions.items() if other != name}  # it may refer to itself
        return _possible(definitions.get(name, {}), others)
    # Prefect 2 wraps each reference in an allOf.
    nested = about.get("anyOf") or (about["allOf"] if len(about.get("allOf", [])) == 1 else [])
    return [one for each in nested for one in _possible(each, definitions)] if nested else [about]


def _field(name: str, label: str, possible: list[Mapping[str, Any]], value: Any, **usual: Any) -> Field:
    """Show a field for a value that follows one of the schemas `possible`, with the default `value` (None: none)."""
    types = {str(one.get("type")) for one in possible}  # "None" if there is none
    choices = [choice for one in possible for choice in one.get("enum", [one["const"]] if "const" in one else [])]
    null = "null" in types or None in choices
    types, choices = types - {"null"}, [choice for choice in choices if choice is not None]
    if types == {"boolean"} and (null or value is None):
        choices = [True, False]
    elif any(not {"enum", "const"} & one.keys() for one in possible if one.get("type") != "null"):
        choices = []
    kind = TYPES.get(type(value))
    fits = value is None or kind in types or (kind == "integer" and "number" in types)
    null_if_empty = null and value is not None
    if choices and (value is None or value in choices):
        index = choices.index(value) if _starts_with(value, null, usual["key"]) else None
        content = st.selectbox(label, choices, index, _shown, placeholder="not set", **usual)
    elif types == {"boolean"} and fits:
        content = st.checkbox(label, value, **usual)
    elif types and types <= {"integer", "number"} and fits and abs(value or 0) < 2**53:  # more than a browser can show
        whole = types == {"integer"}
        number = value if value is None or whole else float(value)
        start = number if _starts_with(number, null, usual["key"]) else None
        steps: dict[str, Any] = {"step": 1} if whole else {"format": "%g"}
        content = st.number_input(label, value=start, placeholder="not set", **steps, **usual)
    elif types == {"string"} and fits:
        formats = [one["format"] for one in possible if "format" in one]
        secret = "password" if "password" in formats else "default"
        text = st.text_input(label, value or "", type=secret, placeholder=" or ".join(formats), **usual)
        content = None if text == "" and (null or value is None) else text
    elif types and types <= {*CALLED} and fits:
        read = functools.partial(_simple, name, types)
        text = st.text_input(label, "" if value is None else _written(value), **usual)
        return Field(text or None, read, null_if_empty)
    else:
        text = st.text_area(f"{label} (JSON)", "" if value is None else json.dumps(value), height=68, **usual)
        return Field(text.strip() or None, functools.partial(_json, name), null_if_empty)
    return Field(content, lambda content: content, null_if_empty)


def _starts_with(value: Any, null: bool, key: str) -> bool:
    """Return whether a field starts with `value` as its default, to which it returns whenever it is emptied.

    A field that may be null gets the value as if somebody had chosen it.
    """
    if null and value is not None:
        st.session_state.setdefault(key, value)
    return not null and value is not None


def _shown(choice: Any) -> str:
    return choice if isinstance(choice, str) else json.dumps(choice)


def _written(value: Any) -> str:
    """Return the text that `_simple` reads as `value`: in quotes if it would be a number without them."""
    with suppress(ValueError):
        if isinstance(value, str):
            json.loads(value)
            return json.dumps(value)
    return _shown(value)


def _simple(name: str, types: set[str], text: str) -> Any:
    """Return the number, truth value or text that `text` means, if it is of one of the `types`."""
    with suppress(ValueError):
        value = _loaded(text)
        kind = TYPES.get(type(value))
        if kind in types or (kind == "integer" and "number" in types):
            return value
    if "string" in types:
        return text
    kinds = " or ".join(CALLED[one] for one in sorted(types))
    raise CannotRun(f"The parameter {name} is {text[:60]!r}. Fill in {kinds}.")


def _json(name: str, text: str) -> Any:
    try:
        return _loaded(text)
    except ValueError as error:
        raise CannotRun(
            f"The parameter {name} is not valid JSON: {error}. Write text in double quotes and lists in brackets."
        ) from None


def _loaded(text: str) -> Any:
    """Return what the JSON `text` means. Raises ValueError if it is not valid, or could not be sent."""
    value = json.loads(text)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value
