"""Every package has a wheel for each machine that docs/versions.md names, so nobody needs a compiler."""

import itertools

import pytest
import tested_versions
import tomli
from packaging import tags
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from flows import settings

PYTHONS = {"prefect3": ["3.10", "3.11", "3.12", "3.13", "3.14"], "prefect2": ["3.10", "3.11"]}
LEGACY = ["manylinux2014", "manylinux2010", "manylinux1"]
GLIBC = [*(f"manylinux_2_{minor}" for minor in range(28, 4, -1)), *LEGACY]  # up to 2.28, that of Debian 10, Red Hat 8
# The system and the processor as markers name them, and the platforms of the wheels that run there.
MACHINES = {
    "Linux, x86-64": ("linux", "x86_64", [f"{libc}_x86_64" for libc in GLIBC]),
    "Linux, ARM": ("linux", "aarch64", [f"{libc}_aarch64" for libc in GLIBC]),
    "macOS, ARM": ("darwin", "arm64", list(tags.mac_platforms((14, 0), "arm64"))),
}
INTEL_MAC = ("darwin", "x86_64", list(tags.mac_platforms((14, 0), "x86_64")))
# What has no wheel. The test fails as well if one of them gets a wheel: then remove it here and in docs/versions.md.
BUILT = {"prefect3": set(), "prefect2": {"pendulum"}}  # Prefect 2.13.7 needs 2.1, which is older than these Pythons
NOT_FOR_INTEL_MACS = {"argon2-cffi-bindings", "cryptography"}  # whose projects no longer build for them

Wheels = dict[tuple[str, str], list[str]]


@pytest.fixture(scope="module")
def wheels() -> Wheels:
    """Return the file names of the wheels of each package and version in uv.lock, which has those of all machines."""
    packages = tomli.loads((settings.PROJECT / "uv.lock").read_text())["package"]
    return {
        (package["name"], package["version"]): [wheel["url"].rpartition("/")[2] for wheel in package.get("wheels", [])]
        for package in packages
    }


@pytest.fixture(scope="module")
def requirements() -> dict[str, list[Requirement]]:
    """Return what each group installs, with exact versions, and with markers that say on which machines."""
    return {group: tested_versions.requirements(group) for group in PYTHONS}


def without_a_wheel(
    requirements: list[Requirement], wheels: Wheels, machine: tuple[str, str, list[str]], python: str
) -> set[str]:
    """Return the names of the packages that this Python would have to build on this machine."""
    system, processor, platforms = machine
    version = tuple(map(int, python.split(".")))
    usable = {*tags.cpython_tags(version, platforms=platforms)}
    usable |= {*tags.compatible_tags(version, f"cp{version[0]}{version[1]}", platforms)}
    needed = tested_versions.of_machine(requirements, python, system, processor)
    assert len(needed) > 100
    built = set()
    for one in needed:
        (version_of_it,) = [specifier.version for specifier in one.specifier]
        names = wheels[canonicalize_name(one.name), version_of_it]
        if not any(parse_wheel_filename(name)[3] & usable for name in names):
            built.add(one.name)
    return built


@pytest.mark.parametrize(
    ("group", "python"), [(group, python) for group, pythons in PYTHONS.items() for python in pythons]
)
@pytest.mark.parametrize("machine", MACHINES)
def test_only_these_packages_have_to_be_built(
    group: str, python: str, machine: str, requirements: dict[str, list[Requirement]], wheels: Wheels
) -> None:
    assert without_a_wheel(requirements[group], wheels, MACHINES[machine], python) == BUILT[group]


def test_a_mac_with_an_intel_processor_lacks_these(requirements: dict, wheels: Wheels) -> None:
    assert without_a_wheel(requirements["prefect3"], wheels, INTEL_MAC, "3.11") == NOT_FOR_INTEL_MACS


def test_what_has_no_wheel_is_documented() -> None:
    text = (settings.PROJECT / "docs/versions.md").read_text()
    assert [name for name in itertools.chain(*BUILT.values(), NOT_FOR_INTEL_MACS) if name not in text] == []


def test_the_table_of_versions_is_today_s() -> None:
    table = tested_versions.table()
    assert len(table.splitlines()) == 2 + len(PYTHONS["prefect3"])
    assert table in tested_versions.DOCUMENT.read_text(), "write it again: python scripts/tested_versions.py"
