"""The endpoints that a server lists in its OpenAPI description, and requests to them as curl and Python."""

import json
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

from flows.api import credentials, rest


class Parameter(NamedTuple):
    """A parameter in an endpoint's path or query."""

    name: str
    place: str
    required: bool
    kind: str
    about: str


class Endpoint(NamedTuple):
    """One method of one path; `example` is a body to start from, None if the endpoint takes no body."""

    group: str
    method: str
    path: str
    summary: str
    about: str
    parameters: list[Parameter]
    fields: list[Parameter]
    example: Any


def read() -> list[Endpoint]:
    """Return the endpoints of the server in use, sorted by group and path."""
    spec = rest.call("GET", "openapi.json")
    listed = [
        _endpoint(spec, method, path, operation)
        for path, methods in spec["paths"].items()
        for method, operation in methods.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]
    return sorted(listed, key=lambda endpoint: (endpoint.group, endpoint.path, endpoint.method))


def only_reads(method: str, path: str) -> bool:
    """Return whether a request changes nothing on the server: a GET, or a POST that carries a filter."""
    ending = path.rstrip("/").rsplit("/", 1)[-1]
    if method == "GET":
        return ending != "csrf-token"  # which the server stores, and which allows what its own pages do
    return method == "POST" and ending in rest.READS


def reveals(content: Any) -> bool:
    """Return whether the query or the body `content` asks for secrets: at any depth, a key that names them is set."""
    if isinstance(content, Mapping):
        return any(
            reveals(value) or ("secret" in key.lower() and str(value).lower() not in ("false", ""))
            for key, value in content.items()
        )
    return isinstance(content, list) and any(map(reveals, content))


def curl(method: str, url: str, body: Any) -> str:
    """Return the request as a curl command; the secret stays in its environment variable."""
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
    """Return the request as Python with httpx; the secret stays in its environment variable."""
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


def _endpoint(spec: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> Endpoint:
    parameters = [
        Parameter(one["name"], one["in"], one.get("required", False), _kind(spec, one.get("schema", {})), _about(one))
        for one in operation.get("parameters", [])
        if one["in"] in ("path", "query")
    ]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = _resolved(spec, content.get("schema", {}))
    required = schema.get("required", [])
    fields = [
        Parameter(name, "body", name in required, _kind(spec, field), _about(_resolved(spec, field)))
        for name, field in schema.get("properties", {}).items()
    ]
    return Endpoint(
        group=(operation.get("tags") or ["Other"])[0],
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        about=operation.get("description", ""),
        parameters=parameters,
        fields=fields,
        example=_example(spec, schema) if content else None,
    )


def _about(described: Mapping[str, Any]) -> str:
    return " ".join((described.get("description") or described.get("schema", {}).get("description") or "").split())


def _resolved(spec: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `schema` or the schema it refers to; if it allows several, the first one that is not null."""
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
    schema = _resolved(spec, schema)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"][:8]))
    kind = schema.get("format") or schema.get("type") or "any"
    return f"list of {_kind(spec, schema.get('items', {}))}" if kind == "array" else kind


def _example(spec: Mapping[str, Any], schema: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a value that matches `schema`: the required keys, and for the body itself a small `limit`."""
    schema = _resolved(spec, schema)
    if schema.get("default") is not None and schema.get("type") != "object":
        return schema["default"]
    match schema.get("type"):
        case "object" if depth < 3:
            properties, required = schema.get("properties", {}), schema.get("required", [])
            value = {name: _example(spec, properties[name], depth + 1) for name in required if name in properties}
            value |= {name: False for name in value if "secret" in name}
            return value | ({"limit": 10} if depth == 0 and "limit" in properties else {})
        case "object":
            return {}
        case "array":
            return []
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
        case "string":
            return schema["enum"][0] if "enum" in schema else ""
    return None
