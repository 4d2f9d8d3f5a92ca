"""The endpoints that a server itself says it has, from its OpenAPI description, and requests to them as code."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from flows.api import credentials, endpoints, rest


class Parameter(NamedTuple):
    """A parameter in an endpoint's path or query."""

    name: str
    place: str
    required: bool
    kind: str
    about: str


class Endpoint(NamedTuple):
    """One method of one path; `example` is a body to begin with, None where there is none."""

    group: str
    method: str
    path: str
    summary: str
    about: str
    parameters: list[Parameter]
    fields: list[Parameter]
    example: Any


def read() -> list[Endpoint]:
    """The endpoints of the server in use, by group and path. Endpoint: GET /openapi.json below the API's address."""
    spec = rest.send(endpoints.description())
    found = [
        _endpoint(spec, method, path, what)
        for path, methods in spec["paths"].items()
        for method, what in methods.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]
    return sorted(found, key=lambda one: (one.group, one.path, one.method))


def curl(method: str, url: str, body: Any) -> str:
    """The request as a command for a shell, the secret left to its variable."""
    parts = ["curl -sS", f"-X {method}", shlex.quote(url)]
    match credentials.scheme():
        case "basic":
            parts.append('-u "$PREFECT_API_AUTH_STRING"')
        case "bearer":
            parts.append('-H "Authorization: Bearer $PREFECT_API_KEY"')
    if body is not None:
        parts += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}"]
    return " \\\n  ".join(parts)


def code(method: str, url: str, body: Any) -> str:
    """The request as Python with httpx, the secret left to its variable."""
    arguments = [f'"{method}"', json.dumps(url)]
    lines = ["import httpx"]
    match credentials.scheme():
        case "basic":
            lines = ["import os", "", "import httpx"]
            arguments.append('auth=tuple(os.environ["PREFECT_API_AUTH_STRING"].split(":", 1))')
        case "bearer":
            lines = ["import os", "", "import httpx"]
            arguments.append('headers={"Authorization": f"Bearer {os.environ[\'PREFECT_API_KEY\']}"}')
    if body is not None:
        arguments.append(f"json={body!r}")
    joined = "".join(f"    {argument},\n" for argument in arguments)
    return "\n".join(
        [*lines, "", f"answer = httpx.request(\n{joined})", "answer.raise_for_status()", "print(answer.json())"]
    )


def _endpoint(spec: Mapping[str, Any], method: str, path: str, what: Mapping[str, Any]) -> Endpoint:
    parameters = [
        Parameter(one["name"], one["in"], one.get("required", False), _kind(spec, one.get("schema", {})), _about(one))
        for one in what.get("parameters", [])
        if one["in"] in ("path", "query")
    ]
    content = what.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = _resolved(spec, content.get("schema", {}))
    required = schema.get("required", [])
    fields = [
        Parameter(name, "body", name in required, _kind(spec, one), _about(_resolved(spec, one)))
        for name, one in schema.get("properties", {}).items()
    ]
    example = _example(spec, schema) if content else None
    group = (what.get("tags") or ["Other"])[0]
    return Endpoint(
        group, method.upper(), path, what.get("summary", ""), what.get("description", ""), parameters, fields, example
    )


def _about(what: Mapping[str, Any]) -> str:
    return " ".join((what.get("description") or what.get("schema", {}).get("description") or "").split())


def _resolved(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """`schema` itself, or what it refers to; of several possible ones the first that is not null."""
    for _ in range(20):
        if "$ref" in schema:
            place: Any = spec
            for step in schema["$ref"].removeprefix("#/").split("/"):
                place = place[step]
            schema = place
        elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            about = {key: schema[key] for key in ("description", "default") if key in schema}
            schema = {**next((one for one in options if one.get("type") != "null"), options[0]), **about}
        else:
            break
    return schema


def _kind(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    found = _resolved(spec, schema)
    if "enum" in found:
        return "one of " + ", ".join(map(str, found["enum"][:8]))
    kind = found.get("format") or found.get("type") or "any"
    return f"list of {_kind(spec, found.get('items', {}))}" if kind == "array" else kind


def _example(spec: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that fits `schema`: what is required, and in the body itself a short page."""
    found = _resolved(spec, schema)
    if found.get("default") is not None and found.get("type") != "object":
        return found["default"]
    match found.get("type"):
        case "object" if depth < 3:
            known, required = found.get("properties", {}), found.get("required", [])
            value = {name: _example(spec, known[name], depth + 1) for name in required if name in known}
            return value | ({"limit": 10} if depth == 0 and "limit" in known else {})
        case "object":
            return {}
        case "array":
            return []
        case "integer" | "number":
            return found.get("minimum", 1)
        case "boolean":
            return False
        case "string":
            return found["enum"][0] if "enum" in found else ""
    return None
