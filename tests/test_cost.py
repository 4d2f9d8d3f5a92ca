"""What the kit sets so that a limit costs little, and the benchmark that measures it."""

import os
import ssl
from pathlib import Path

import pytest
from prefect.settings import get_current_settings
from support.commands import answer, refused, run

from flows import versions
from flows.api import credentials, server

BENCH = "scripts/bench.py"
CERTIFICATES, TOKENS = "PREFECT_API_SSL_CERT_FILE", "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"


def test_for_the_lab_prefect_reads_one_certificate_and_asks_for_no_token(shared_lab: str, monkeypatch) -> None:
    """A server that the user names later gets what the user has set, and its certificates are checked."""
    known = get_current_settings()
    assert known.api.ssl_cert_file == str(credentials.UNUSED) and not known.client.csrf_support_enabled
    assert len(ssl.create_default_context(cafile=credentials.UNUSED).get_ca_certs()) == 1
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.invalid/api")
    assert server.attach() == "https://prefect.invalid/api"
    assert TOKENS not in os.environ and CERTIFICATES not in os.environ
    assert credentials.trust() is True, "the certificates that everybody trusts"


def test_a_flow_of_the_command_sends_no_heartbeats_and_a_worker_s_does() -> None:
    usual = get_current_settings().flows.heartbeat_frequency
    with versions.no_heartbeats():
        assert get_current_settings().flows.heartbeat_frequency is None
    assert get_current_settings().flows.heartbeat_frequency == usual is not None


@pytest.mark.long
def test_the_benchmark_measures_what_is_chosen(shared_lab: str, tmp_path: Path) -> None:
    # Long enough that a third slot is given out before the first is free again, on a busy machine too.
    chosen = ["--engines", "thread pool,batches,tag limit", "--tasks", "7", "--seconds", "1.5", "--limit", "3"]
    figures = answer(run(BENCH, *chosen, "--json", "--svg", str(tmp_path / "bench.svg")))
    assert figures["ideal_seconds"] == 3 * 1.5
    assert [row["engine"] for row in figures["rows"]] == ["thread pool", "batches", "tag limit"]
    for row in figures["rows"]:
        assert row["peak"] == 3 and 1 <= row["span_ratio"] <= row["ratio"], row
    assert "tag limit" in (tmp_path / "bench.svg").read_text()
    message = refused(run(BENCH, "--engines", "thread pool,a hamster"))
    assert "'a hamster' is not an engine of this environment, which has thread pool, " in message
