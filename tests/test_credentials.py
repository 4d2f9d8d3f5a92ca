"""Which credentials are sent, where they come from, and what is said of those that are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import LAB, answer, refused, run
from support.guards import CHECK, WRONG_KEY, WRONG_PAIR, kit, own_header, printed, task_runs, variables_of
from support.waiting import eventually

from flows import settings
from flows.api import endpoints, rest, server


@pytest.mark.long
@pytest.mark.guard("gateway")
def test_a_user_s_own_header_is_what_is_sent(guarded) -> None:
    url = guarded("gateway")
    key = variables_of("gateway", "right")["PREFECT_API_KEY"]
    own = json.dumps({"authorization": f"Bearer {key}", "X-Team": "data"})
    done = kit(CHECK, "--json", PREFECT_API_URL=url, PREFECT_CLIENT_CUSTOM_HEADERS=own)
    assert answer(done)["accepted"] and answer(done)["scheme"] == "bearer"


@pytest.mark.guard("basic")
def test_what_is_left_from_another_guard_is_named_and_unset(guarded) -> None:
    """From the gateway to Basic in one shell: the header with the key is still set, and sent."""
    url = guarded("basic")
    left = own_header(f"Bearer {WRONG_KEY}")
    done = kit(CHECK, PREFECT_API_URL=url, **variables_of("basic", "right"), **left)
    assert done.returncode == 1, done.stderr
    assert "bearer (PREFECT_CLIENT_CUSTOM_HEADERS, the environment)" in done.stdout
    assert "bearer header of PREFECT_CLIENT_CUSTOM_HEADERS was sent. Correct or unset" in done.stdout
    lines = kit(LAB, "status").stdout.splitlines()
    shell = [line.strip() for line in lines if line.strip().startswith(("unset ", "export "))]
    script = "\n".join(["set -e", *shell, f"{sys.executable} {CHECK} --json"])
    told = subprocess.run(
        ["bash", "-c", script], cwd=settings.PROJECT, env=os.environ | left, capture_output=True, text=True, check=False
    )
    printed.extend([told.stdout, told.stderr])
    assert answer(told)["accepted"] and answer(told)["scheme"] == "basic"


@pytest.mark.guard("gateway")
def test_where_a_setting_comes_from_is_said(guarded, tmp_path: Path) -> None:
    url = guarded("gateway")
    profiles = tmp_path / "profiles.toml"
    right, wrong = variables_of("gateway", "right")["PREFECT_API_KEY"], WRONG_KEY
    profiles.write_text(f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{url}"\nPREFECT_API_KEY = "{right}"\n')
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles))
    assert done.returncode == 0 and done.stdout.count("the profile 'team'") == 2, done.stdout
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles), PREFECT_API_KEY=wrong)
    assert done.returncode == 1 and "(PREFECT_API_KEY, the environment)" in done.stdout
    done = kit(CHECK, PREFECT_PROFILES_PATH=str(profiles), PREFECT_PROFILE="other")
    assert f"{url} (the lab)" in done.stdout
    profiles.write_text("[profiles")
    assert "cannot be read" in refused(kit(CHECK, PREFECT_PROFILES_PATH=str(profiles)))
    # A copy of the kit with an .env of its own: it wins over the profile, and loses against the environment.
    profiles.write_text(f'active = "team"\n[profiles.team]\nPREFECT_API_KEY = "{wrong}"\n')
    shutil.copytree(settings.PROJECT / "flows", tmp_path / "flows")
    shutil.copytree(settings.PROJECT / "scripts", tmp_path / "scripts")
    (tmp_path / ".env").write_text(f"PREFECT_API_URL={url}\nPREFECT_API_KEY={right}\n")
    variables = {"PYTHONPATH": str(tmp_path), "PREFECT_PROFILES_PATH": str(profiles)}
    done = run(str(tmp_path / CHECK), cwd=tmp_path, **variables)
    assert done.returncode == 0 and "(PREFECT_API_KEY, .env)" in done.stdout and f"{url} (.env)" in done.stdout
    done = run(str(tmp_path / CHECK), cwd=tmp_path, PREFECT_API_KEY=wrong, **variables)
    assert done.returncode == 1 and "(PREFECT_API_KEY, the environment)" in done.stdout


def test_the_tests_do_not_begin_where_a_profile_holds_credentials(tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(f'active = "own"\n[profiles.own]\nPREFECT_API_KEY = "{WRONG_KEY}"\n')
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_limits.py"]
    others = {"PREFECT_HOME": str(tmp_path), "PREFECT_PROFILE": "other", "PREFECT_PROFILES_PATH": "/nowhere"}
    done = subprocess.run(
        command, cwd=settings.PROJECT, env=os.environ | others, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "PREFECT_API_KEY in the profile 'own'" in done.stdout + done.stderr
    assert WRONG_KEY not in done.stdout + done.stderr


@pytest.mark.guard("gateway")
@pytest.mark.long
def test_a_worker_with_what_the_lab_says_to_export(guarded) -> None:
    """Prefect's own commands, in a shell that has run what `lab.py up` printed."""
    guarded("gateway")
    exports = [line.strip() for line in kit(LAB, "status").stdout.splitlines() if line.strip().startswith("export")]
    parameters = "'queries=[\"busiest_clerks\"]'"
    script = "\n".join(
        [
            "set -e",
            *exports,
            "prefect --no-prompt deploy flows/prefect_flow.py:main_etl",
            f"prefect deployment run main_etl/main_etl --param {parameters}",
            "prefect worker start --pool flows --run-once",
        ]
    )
    shell = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=settings.PROJECT,
        env=os.environ | shell,
        capture_output=True,
        text=True,
        check=False,
    )
    printed.extend([done.stdout, done.stderr])
    assert done.returncode == 0, done.stderr[-2000:]
    server.use()
    (flow_run,) = rest.send(endpoints.flow_runs(flow="main_etl", limit=1))
    assert flow_run["state_name"] == "Completed" and flow_run["deployment_id"]
    eventually(lambda: task_runs(flow_run["id"]) == 3)


@pytest.mark.long
@pytest.mark.guard("gateway, then basic")
def test_both_kinds_set_at_once(guarded) -> None:
    url = guarded("gateway")
    both = variables_of("gateway", "right") | {"PREFECT_API_AUTH_STRING": WRONG_PAIR}
    done = kit(CHECK, PREFECT_API_URL=url, **both)
    assert done.returncode == 1 and "Unset PREFECT_API_AUTH_STRING" in done.stdout
    url = guarded("basic")
    done = kit(CHECK, "--json", PREFECT_API_URL=url, PREFECT_API_KEY=WRONG_KEY, **variables_of("basic", "right"))
    assert answer(done)["accepted"] and answer(done)["scheme"] == "basic"
    assert "the former is sent, the latter is not" in answer(done)["detail"]


@pytest.mark.guard("basic")
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "asks for Basic credentials (401), and none are set"),
        (
            {"PREFECT_API_AUTH_STRING": WRONG_PAIR},
            "rejected the user and password admi… (401): it is wrong, expired or revoked",
        ),
        ({"PREFECT_API_KEY": WRONG_KEY}, "asks for Basic credentials (401), but bearer was sent"),
        ({"PREFECT_API_AUTH_STRING": "admin"}, "is incomplete"),
        ({"PREFECT_API_AUTH_STRING": "admin:"}, "is incomplete"),
        ({"PREFECT_API_AUTH_STRING": ":password"}, "is incomplete"),
        ({"PREFECT_API_KEY": WRONG_KEY + "\n"}, "contains a line break or stray space"),
        ({"PREFECT_API_KEY": f" {WRONG_KEY}"}, "contains a line break or stray space"),
        ({"PREFECT_API_KEY": f'"{WRONG_KEY}"'}, "has quotes around it"),
        ({"PREFECT_API_KEY": f"{WRONG_KEY}\u2019"}, "beyond ASCII"),
        ({"PREFECT_API_KEY": f"Bearer {WRONG_KEY}"}, "begins with the word 'Bearer'"),
        ({"PREFECT_API_KEY": "pnu_0123 4567890123"}, "contains a space"),
        (own_header(f"Bearer {WRONG_KEY} "), "contains a line break or stray space"),
        (own_header(f"Bearer {WRONG_KEY}\n"), "contains a line break or stray space"),
        (own_header(f"Bearer {WRONG_KEY}\u2019"), "beyond ASCII"),
        (own_header(WRONG_KEY), "is not a scheme, one space and a secret"),
        (own_header(""), "is not a scheme, one space and a secret"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:40],
)
def test_credentials_that_are_refused_are_explained(variables: dict, says: str, guarded) -> None:
    url = guarded("basic")
    done = kit(CHECK, PREFECT_API_URL=url, **variables)
    assert done.returncode == 1 and says in done.stdout, (done.stdout, done.stderr)
    secret = next(iter(variables.values()), WRONG_KEY).strip()
    assert secret not in done.stdout + done.stderr or len(secret) < 10
    assert WRONG_KEY not in (done.stdout + done.stderr).lower()
