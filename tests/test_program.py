"""The scripts as programs: interrupted, with output that goes nowhere, and under other encodings."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import api_client
import smtp_client
from conftest import REPOSITORY, SCRIPTS, Run
from fake_mailtrap import FakeMailtrap

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell and signals")


@posix
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_sending_is_one_line_and_status_130(script: str, fake: FakeMailtrap) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        proxy = f"http://127.0.0.1:{port}"
        environ = {**os.environ, **fake.settings, "MAILTRAP_SMTP_PORT": str(port)}
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / f"{script}.py")],
            env={**environ, "HTTPS_PROXY": proxy, "https_proxy": proxy},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
        connection.close()
    assert process.returncode == 130
    assert (output, errors) == ("", f"{script}: interrupted; look in Mailtrap before you send it again\n")


@posix
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_before_another_try_is_one_line_too(script: str, fake: FakeMailtrap) -> None:
    fake.smtp_replies["DATA"] = ["451 4.3.0 try again later"]
    fake.api_replies = [(429, {"success": False, "errors": ["Rate limit exceeded"]})]
    command, environ = [sys.executable, f"{script}.py"], {**os.environ, **fake.settings}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "; trying again in " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == f"{script}: interrupted; look in Mailtrap before you send it again\n"
    assert process.returncode == 130
    assert not fake.messages


@posix
@pytest.mark.parametrize(
    ("script", "module"), [("smtp_client", "argparse"), ("smtp_client", "dotenv"), ("api_client", "mailtrap")]
)
def test_ctrl_c_during_the_imports_is_one_line_too(script: str, module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"""
import os, signal, sys
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
""")
    command, environ = [sys.executable, f"{script}.py"], {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False, timeout=30
    )
    assert result.returncode == 130
    assert result.stderr == f"{script}: interrupted; look in Mailtrap before you send it again\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_happens_at_import(script: str) -> None:
    changes = f"""
import gc, logging, os, signal
def state(): return gc.isenabled(), signal.getsignal(signal.SIGINT), dict(os.environ), logging.root.handlers[:]
before = state()
import {script}
assert state() == before
"""
    subprocess.run([sys.executable, "-c", changes], cwd=REPOSITORY, check=True, timeout=30)


def shell(command: str, fake: FakeMailtrap, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, **fake.settings, **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@posix
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("sink", ["| head -c 0", "| true", ">&-", "> /dev/full"])
@pytest.mark.parametrize("flag", ["", "--dry-run"])
def test_output_that_nobody_reads_is_no_failure(script: str, sink: str, flag: str, fake: FakeMailtrap) -> None:
    if "full" in sink and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    result = shell(f"{sys.executable} {REPOSITORY / script}.py {flag} {sink}", fake)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(fake.messages) == (0 if flag else 1)


@posix
@pytest.mark.parametrize("script", SCRIPTS)
def test_errors_that_nobody_reads_do_not_change_the_status(script: str, fake: FakeMailtrap) -> None:
    result = shell(f"{sys.executable} {REPOSITORY / script}.py 2>&1 >/dev/null | true", fake, MAILTRAP_TO_EMAIL="")
    assert (result.returncode, result.stderr) == (78, "")
    assert shell(f"{sys.executable} {REPOSITORY / script}.py 2>&-", fake, MAILTRAP_TO_EMAIL="").returncode == 78


@posix
def test_a_conversation_that_nobody_reads_is_no_reason_to_send_again(fake: FakeMailtrap) -> None:
    result = shell(
        f"{sys.executable} {REPOSITORY}/smtp_client.py --verbose 2>&1 >&- | grep -m1 -q 'retcode (354'", fake
    )
    assert result.returncode in (0, 74)


class Reader(io.TextIOWrapper):
    """Somebody who reads what is printed, or has gone away."""

    def __init__(self, encoding: str, *, gone: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="\n")
        self.gone, self.flushed = gone, False

    def flush(self) -> None:
        self.flushed = True
        if self.gone:
            raise BrokenPipeError
        super().flush()


@pytest.mark.parametrize("show", [smtp_client.show, api_client.show])
@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", b"Hello \\u4f60\\xe9 \n  \t\n"),
        ("cp1252", b"Hello \\u4f60\xe9 \n  \t\n"),
        ("utf-8", b"Hello \xe4\xbd\xa0\xc3\xa9 \n  \t\n"),
    ],
)
def test_show_prints_in_what_encoding_there_is(show: Callable[..., None], encoding: str, printed: bytes) -> None:
    reader = Reader(encoding)
    show("Hello 你é\x9b\n\x00\x1b\t", reader)
    assert (reader.buffer.getvalue(), reader.flushed) == (printed, True)


@pytest.mark.parametrize("show", [smtp_client.show, api_client.show])
def test_show_needs_no_reader(show: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader("utf-8", gone=True)
    show("Hello", reader)
    assert reader.flushed
    reader.gone = False
    monkeypatch.setattr(sys, "stdout", None)
    show("Hello", None)
    text = io.StringIO()  # has no encoding
    show("Hello 你", text)
    assert text.getvalue() == "Hello 你\n"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_that_cannot_show_a_character_shows_its_number(
    script: str, encoding: str, run: Run, fake: FakeMailtrap
) -> None:
    result = run(script, "--subject", "Hello 你", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert result.returncode == 0
    assert "  Subject     Hello \\u4f60\n" in result.stdout
    assert fake.messages[0].message["Subject"] == "Hello 你"


@posix
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flag_that_is_not_utf_8_is_refused(script: str, run: Run, fake: FakeMailtrap) -> None:
    for flag in (b"--subject", b"--text", b"--attach"):
        result = run(script, flag, b"caf\xe9")
        assert (result.returncode, fake.messages) == (2, [])
    assert run(script, b"--to", b"caf\xe9 <a@example.com>").returncode == 78


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_copy_of_the_script_elsewhere_needs_nothing_of_the_repository(
    script: str, fake: FakeMailtrap, tmp_path: Path
) -> None:
    copy = tmp_path / "mail.py"
    copy.write_bytes((REPOSITORY / f"{script}.py").read_bytes())
    result = subprocess.run(
        [sys.executable, str(copy)], env={**os.environ, **fake.settings}, capture_output=True, check=False, cwd=tmp_path
    )
    assert (result.returncode, len(fake.messages)) == (0, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/zero and a limit for memory")
@pytest.mark.parametrize(("script", "kilobytes"), [("smtp_client", 600_000), ("api_client", 900_000)])
def test_an_attachment_too_big_for_the_memory_is_named(script: str, kilobytes: int, fake: FakeMailtrap) -> None:
    program = f"ulimit -v {kilobytes}; {sys.executable} {REPOSITORY / script}.py --attach /dev/zero"
    result = shell(program, fake)
    assert (result.returncode, result.stderr) == (2, f"{script}: not enough memory\nAttach less.\n")


@posix
def test_a_password_that_no_login_can_carry_is_named_on_localhost_too(run: Run, fake: FakeMailtrap) -> None:
    result = run("smtp_client", MAILTRAP_SMTP_PASSWORD="pass\udcff")
    assert (result.returncode, fake.messages) == (78, [])
    assert result.stderr.endswith("\nCheck MAILTRAP_SMTP_HOST, MAILTRAP_SMTP_USERNAME and MAILTRAP_SMTP_PASSWORD.\n")


def test_the_stand_in_ends_quietly_though_a_tunnel_is_open() -> None:
    program = """
import socket
from fake_mailtrap import FakeMailtrap
with FakeMailtrap() as fake:
    client = socket.create_connection(("127.0.0.1", int(fake.settings["HTTPS_PROXY"].rsplit(":", 1)[1])))
    client.sendall(b"CONNECT sandbox.api.mailtrap.io:443 HTTP/1.1\\r\\n\\r\\n")
    assert client.recv(100).startswith(b"HTTP/1.1 200")
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=REPOSITORY / "tests", capture_output=True, text=True, check=False, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")
