"""Values and files that are not as hoped: encodings, paths with ~, addresses, and where a value comes from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import FLOW, LAB, LIMIT, refused, run
from support.guards import CHECK
from support.servers import forget_servers

from flows import settings
from flows.api import server
from flows.settings import CannotRun

NOBODY = "http://127.0.0.1:9/api"
LINES = f"# für uns\nPREFECT_API_URL={NOBODY}\nPREFECT_API_KEY=pnu_sEcret\n"
PROFILE = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{NOBODY}/"\n'
OPEN_PAGES = """
import sys
from streamlit.testing.v1 import AppTest
sys.path.insert(0, sys.argv[1])
for script in ("main.py", "rest_api_app.py"):
    app = AppTest.from_file(f"{sys.argv[1]}/{script}", default_timeout=60).run()
    assert not app.exception and all("UTF" in message.value for message in app.error) and app.error, script
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a copy of the kit, whose `.env` a test may write."""
    forget_servers(monkeypatch)
    folder = tmp_path / "kit"
    for name in ("flows", "scripts", "streamlit"):
        shutil.copytree(settings.PROJECT / name, folder / name)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FLOWS_LAB_DIR", str(tmp_path / "lab"))
    return folder


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_text_in_another_encoding_is_refused(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / ".env"
    for text in (LINES, LINES.replace("ü", "u")):  # without the umlaut, UTF-16 without a mark is valid UTF-8
        file.write_bytes(text.encode(encoding))
        if encoding == "latin-1" and text.isascii():
            assert settings.text(file) == text
            continue
        with pytest.raises(CannotRun, match=r"\.env cannot be read \(.*UTF-8") as caught:
            settings.text(file)
        assert "sEcret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named_in_one_line(kit: Path, tmp_path: Path) -> None:
    file = kit / ".env"
    file.mkdir()
    assert f"{file} cannot be read" in refused(run(str(kit / FLOW)))
    file.rmdir()
    file.write_text(LINES, "utf-16")
    for program in (FLOW, LAB, LIMIT, CHECK):
        arguments = ["status"] if program == LAB else []
        assert f"{file} cannot be read" in refused(run(str(kit / program), *arguments, cwd=kit))
    subprocess.run([sys.executable, "-c", OPEN_PAGES, kit / "streamlit"], cwd=kit, check=True)
    file.rename(tmp_path / ".env")  # in the current folder, of which Prefect reads the file as well
    assert f"{tmp_path / '.env'} cannot be read" in refused(run(str(kit / FLOW), cwd=tmp_path))


@pytest.mark.parametrize("text", [PROFILE.encode("utf-16"), b"profiles = 1", b"active = []", b"[profiles\n"])
def test_profiles_that_cannot_be_read_are_named(tmp_path: Path, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "profiles.toml"
    file.write_bytes(text)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(file))
    with pytest.raises(CannotRun, match=f"{file} cannot be read"):
        settings.read()


@pytest.mark.parametrize(
    "text", [LINES.encode("utf-8-sig"), LINES.replace("\n", "\r\n").encode(), LINES.lower().encode()]
)
def test_what_windows_writes_is_read_and_its_place_is_named(kit: Path, text: bytes) -> None:
    (kit / ".env").write_bytes(text.split(b"\n", 1)[1] if text.startswith(b"# f") else text)
    done = run(str(kit / CHECK), cwd=kit)
    assert f"{NOBODY} (.env)" in done.stdout and "(PREFECT_API_KEY, .env)" in done.stdout
    assert "or correct PREFECT_API_URL in .env." in refused(done)


def test_an_address_from_a_forgotten_profile_is_named_with_the_way_to_the_lab(kit: Path, tmp_path: Path) -> None:
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect/profiles.toml").write_text(PROFILE)
    for program in (FLOW, CHECK):
        said = refused(run(str(kit / program)))
        assert "in the profile 'team' (to use the lab: prefect profile create lab, then prefect" in said
    other = "http://127.0.0.1:19/api"
    assert "correct PREFECT_API_URL in the environment." in refused(run(str(kit / LIMIT), PREFECT_API_URL=other))


@pytest.mark.long
def test_the_named_commands_lead_from_a_profile_to_the_lab(kit: Path, tmp_path: Path) -> None:
    (tmp_path / ".prefect").mkdir()
    (tmp_path / ".prefect/profiles.toml").write_text(PROFILE)
    for action in ("create", "use"):
        command = [Path(sys.executable).with_name("prefect"), "profile", action, "lab"]
        # Prefect 3 says then that no server is configured, and exits with 1: as it should be for the lab.
        subprocess.run(command, cwd=tmp_path, check=action == "create", capture_output=True)
    done = run(str(kit / LAB), "status")
    assert done.returncode == 1 and "The lab is down" in done.stdout
    ask = "from flows import settings; print(settings.origin('PREFECT_API_URL'))"
    said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "None"


def test_a_path_may_begin_with_the_home_folder(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLOWS_LAB_DIR", "FLOWS_PG_BIN", "PREFECT_API_SSL_CERT_FILE"):
        monkeypatch.setenv(name, "~/some where")
        assert getattr(settings.read(), name.lower()) == tmp_path / "some where"
        monkeypatch.delenv(name)
    assert "Set HOME" in refused(run(str(kit / FLOW), FLOWS_LAB_DIR="~nobody-has-this-name/x"))
    (tmp_path / "own.toml").write_text(PROFILE)
    for variables in ({"PREFECT_PROFILES_PATH": "~/own.toml"}, {"PREFECT_HOME": "~"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            shutil.copy(tmp_path / "own.toml", tmp_path / "profiles.toml")
            assert settings.read().prefect_api_url == NOBODY
            assert settings.origin("PREFECT_API_URL") == "the profile 'team'"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://host/prefect/api", None),
        ("https://host/api/v2///", None),
        ("http://HOST:4200/api", None),
        ("http://[::1]:4200/api", None),
        ("http://host:4200/API", "use http://host:4200/api"),
        ("https://host/prefect/API/v2", "use https://host/prefect/api"),
        ("https://host/prefect/api?key=sEcret", "no ? or #: use https://host/prefect/api"),
        ("https://host/api#sEcret", "no ? or #: use https://host/api"),
        ("https://host/prefect/dashboard?key=sEcret", "use https://host/prefect/api"),
        ("HTTP://host/api", "in lower case"),
        ("http://user:sEcret@host/api", "has credentials in it"),
    ],
)
def test_an_address_is_accepted_or_corrected(url: str, right: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_servers(monkeypatch)
    monkeypatch.setenv("PREFECT_API_URL", url)
    used = settings.read().prefect_api_url
    assert used == url.rstrip("/")
    if right is None:
        server.check_address(used)
    else:
        with pytest.raises(CannotRun) as caught:
            server.check_address(used)
        assert right in str(caught.value) and "sEcret" not in str(caught.value)
