"""The lab's keys: issued, rotated, revoked, and kept secret."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from support.commands import FLOW, start
from support.guards import printed, secrets, set_to, task_runs, variables_of
from support.labs import processes_below
from support.waiting import eventually

from flows import lab, settings
from flows.api import credentials
from flows.lab import keys


@pytest.mark.guard("gateway")
def test_secrets_lie_where_only_their_owner_may_read(guarded, guarded_folder: Path) -> None:
    guarded("gateway")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (guarded_folder / "secrets").iterdir()}
    assert keys.file("keys") in modes and set(modes.values()) == {0o600}
    assert stat.S_IMODE((guarded_folder / "secrets").stat().st_mode) == 0o700
    commands = ""
    for process in processes_below(guarded_folder):
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go
            commands += " ".join([*process.cmdline(), ""])
    assert commands and not [secret for secret in secrets() if secret in commands]


@pytest.mark.long
@pytest.mark.guard("gateway")
def test_keys_are_issued_rotated_and_revoked_with_no_downtime(guarded) -> None:
    url = guarded("gateway")

    def status(key: settings.SecretStr) -> int:
        header = {"Authorization": f"Bearer {key.get_secret_value()}"}
        return client.get(f"{url}/health", headers=header).status_code

    client = httpx.Client(timeout=60)
    stays = [keys.bearer()[keys.FIRST]]
    moves = [keys.issue("cyn-0")]  # the last one is what its client uses
    used: list[settings.SecretStr] = []
    answers: set[object] = set()
    stop = threading.Event()

    def ask(mine: list[settings.SecretStr]) -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.wait(0.02):  # without a pause, they would keep the machine busy
                key = mine[-1]
                header = {"Authorization": f"Bearer {key.get_secret_value()}"}
                try:
                    answers.add(client.get(f"{url}/health", headers=header).status_code)
                except httpx.HTTPError as error:
                    answers.add(repr(error))
                used.append(key)

    asking = [threading.Thread(target=ask, args=[mine]) for mine in (stays, moves)]
    for thread in asking:
        thread.start()
    flow = start(FLOW, "--json")
    try:
        for turn in range(20):
            old, new = keys.issue(f"ana-{turn}"), keys.issue(f"bob-{turn}")
            secrets()  # remember them before they are gone
            assert (status(old), status(new)) == (200, 200)
            keys.revoke(f"ana-{turn}")
            assert (status(old), status(new)) == (401, 200)
            keys.revoke(f"bob-{turn}")
            moves.append(keys.issue(f"cyn-{turn + 1}"))
            secrets()
            eventually(lambda: moves[-1] in used)  # the client has moved: it asks with the new key alone
            keys.revoke(f"cyn-{turn}")
            assert (status(moves[-2]), status(moves[-1])) == (401, 200)
        out, err = flow.communicate(timeout=240)
    finally:
        stop.set()
        for thread in asking:
            thread.join()
        client.close()
    keys.revoke("cyn-20")
    printed.extend([out, err])
    assert answers == {200}, "a request was lost while keys changed"
    report = json.loads(out.strip().splitlines()[-1])
    assert report["completed"] == 20, err
    eventually(lambda: task_runs(report["flow_run_id"]) == 22)
    with pytest.raises(settings.CannotRun, match="No key belongs to 'eve'"):
        keys.revoke("eve")


@pytest.mark.guard("gateway")
def test_secrets_do_not_show(guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    url = guarded("gateway")
    secret = variables_of("gateway", "right")["PREFECT_API_KEY"]
    pair = variables_of("basic", "right")["PREFECT_API_AUTH_STRING"]
    set_to(monkeypatch, url, PREFECT_API_KEY=secret, PREFECT_API_AUTH_STRING=pair)
    known = settings.read()
    shown = f"{known} {known!r} {known.model_dump_json()} {keys.bearer()} {keys.auth_string()!r} {lab.status()}"
    assert secret not in shown and pair not in shown
    assert credentials.masked(known.prefect_api_key) == "pnu_…" and credentials.masked(settings.SecretStr("ab")) == "…"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "{env.HOME}", '"'])
def test_a_name_that_would_break_the_gateway_s_file_is_refused(name: str, new_lab: Path) -> None:
    with pytest.raises(settings.CannotRun, match="cannot name a key's holder"):
        keys.issue(name)


def test_keys_changed_by_several_processes_at_once_are_all_kept(new_lab: Path) -> None:
    program = """
import sys
from flows.lab import keys
for turn in range(40):
    keys.issue(f"{sys.argv[1]}-{turn}")
    if turn % 2:
        keys.revoke(f"{sys.argv[1]}-{turn}")
"""
    command = [sys.executable, "-c", program]
    holders = [str(number) for number in range(4)]
    running = [subprocess.Popen([*command, holder], cwd=settings.PROJECT, env=os.environ) for holder in holders]
    assert [process.wait() for process in running] == [0] * 4
    kept = {f"{holder}-{turn}" for holder in holders for turn in range(0, 40, 2)}
    assert keys.bearer().keys() == {keys.FIRST, *kept}


def test_a_keys_file_that_was_spoilt_by_hand_is_refused(new_lab: Path) -> None:
    keys.issue("ana")
    keys.file("keys").write_text(keys.file("keys").read_text() + "# eve\nbearer of good news\n")
    with pytest.raises(settings.CannotRun, match="needs a line `# NAME` and a line `Bearer KEY`"):
        keys.bearer()


@pytest.mark.long
@pytest.mark.search
def test_no_secret_is_left_anywhere(guarded, guarded_folder: Path) -> None:
    """The last of the guarded lab's tests: no secret was printed, logged or stored, except where secrets belong."""
    guarded("none")
    belongs = {keys.file("keys"), keys.file("auth_string")}
    texts = {"what commands printed": "\n".join(printed)}
    notebooks = [*(settings.PROJECT / "notebooks").glob("*.ipynb"), *settings.PROJECT.glob("artifacts/*.ipynb")]
    for path in [*guarded_folder.rglob("*"), *notebooks]:
        if path.is_file() and path not in belongs and not path.is_relative_to(guarded_folder / "postgres"):
            texts[str(path)] = path.read_text(errors="replace")
    with psycopg.connect(lab.status().database) as connection:
        tables = connection.execute(
            "select quote_ident(tablename) from pg_tables where schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f"select t::text from {table} t").fetchall()  # ty: ignore
            texts[f"table {table}"] = "\n".join(row for (row,) in rows)
    assert len(texts["table task_run"]) > 1000 and len(texts["what commands printed"]) > 1000
    assert texts[str(guarded_folder / "logs" / "prefect-server.log")]
    assert texts[str(guarded_folder / "logs" / "gateway.log")]
    found = [(place, secret[:4]) for place, text in texts.items() for secret in secrets() if secret in text]
    assert len(secrets()) >= 3 and found == []
