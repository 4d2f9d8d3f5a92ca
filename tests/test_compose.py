"""compose.yaml: its form, and what it promises about images, passwords, ports and health."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows import settings

FILE = settings.PROJECT / "compose.yaml"
TEXT = FILE.read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
ONCE = {"migrate"}  # ends as soon as it is done, so that there is nothing to check


def test_it_is_valid_by_the_schema_of_the_compose_specification() -> None:
    check = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", FILE]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_the_parts_of_a_set_up_with_several_servers() -> None:
    commands = [service.get("command", "") for service in SERVICES.values()]
    assert sum("server start" in command and "--no-services" in command for command in commands) == 2
    assert sum("services start" in command for command in commands) == 1
    assert {"postgres", "redis", "gateway", "monitor"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_a_pinned_image_and_a_health_check(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[\w/-]+:\d+\.\d+(\.\d+)?(-[\w.]+)?", service["image"]), service["image"]
    for image in re.findall(r"(?:FROM |--from=)(\S+)", service.get("build", {}).get("dockerfile_inline", "")):
        assert re.search(r":\d+\.\d+", image), image
    assert name in ONCE or service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_waits_until_those_that_it_needs_are_healthy(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        ended = needed in ONCE
        assert how["condition"] == ("service_completed_successfully" if ended else "service_healthy"), needed


def test_the_gateway_alone_is_published_and_on_loopback_only() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["gateway"]["ports"])
    assert not [name for name, service in SERVICES.items() if "network_mode" in service or "privileged" in service]


def test_no_password_has_a_default() -> None:
    """Each is required, with a sentence, where it is first used, and none is written out."""
    used = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    names = {name for name, _ in used}
    assert names == {"POSTGRES_PASSWORD", "PREFECT_PASSWORD", "REDIS_PASSWORD"}
    for name in names:
        first = next(rest for of, rest in used if of == name)
        assert re.fullmatch(r":\?[A-Z].+\.", first), (name, first)
        assert not [rest for of, rest in used if of == name and rest.startswith((":-", "-"))]
    places = re.findall(
        r"(?:PASSWORD: |REDISCLI_AUTH: |requirepass |AUTH_STRING: admin:|redis://:|//prefect:)(\S+)", TEXT
    )
    assert len(places) >= 7 and all(place.startswith("${") for place in places), places
