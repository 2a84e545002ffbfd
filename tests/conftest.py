"""What the tests share: the stand-in for Mailtrap, ways to send to it, and to run the scripts."""

import importlib
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mailtrap as mt
import pytest

import smtp_client
from fake_mailtrap import FakeMailtrap

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")
ME, YOU = "me@example.com", "you@example.com"
MESSAGE = smtp_client.build_message(("", ME), [("", YOU)], "x", "x").as_string()
PROXY = {"HTTPS_PROXY": "http://mailtrap.io:443", "NO_PROXY": "", "no_proxy": ""}  # the stand-in
PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
PORTS: dict[str, Any] = {}  # the names of what leads look-ups to the stand-in; see fake_mailtrap.py


def connected(fake: FakeMailtrap, timeout: float = 9.0) -> Any:
    account = "sandbox.smtp.mailtrap.io", 2525, fake.username, fake.password
    return smtp_client.connect(*account, timeout=timeout)


def api_of(fake: FakeMailtrap) -> Any:
    return mt.MailtrapClient(fake.token, sandbox=True, inbox_id=fake.sandbox_id).sending_api


def new_mail() -> mt.Mail:
    return mt.Mail(sender=mt.Address(ME), to=[mt.Address(YOU)], subject="x", text="x")


def python(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *arguments], **PIPES, **options)


def python_until_sent(fake: FakeMailtrap, end: int, *arguments: str | Path) -> tuple[Any, ...]:
    """Run Python until a message has arrived, then send a signal.

    Returns the exit status, whether something had been printed by then, and the errors.
    """
    process = subprocess.Popen([sys.executable, *arguments], **PIPES)
    while not fake.messages:
        assert process.poll() is None
    printed = bool(select.select([process.stdout], [], [], 0)[0])
    process.send_signal(end)
    _, errors = process.communicate(timeout=9)
    return process.returncode, printed, errors


@pytest.fixture(scope="session")
def _servers() -> Iterator[FakeMailtrap]:
    with FakeMailtrap() as fake:
        exec(fake.look_up, PORTS)
        yield fake


@pytest.fixture
def fake(_servers: FakeMailtrap, monkeypatch: pytest.MonkeyPatch) -> FakeMailtrap:
    """Mailtrap as new, and an environment that leads there and nowhere else."""
    _servers.reset()
    for name in os.environ:
        if name.startswith("MAILTRAP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    more = {"PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "", "NETRC": os.devnull}
    for name, value in {**_servers.environment, **_servers.settings, **more}.items():
        monkeypatch.setenv(name, value)
    return _servers


@pytest.fixture
def folder(fake: FakeMailtrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a filled-in .env, which alone leads to the account."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{it}={fake.settings[it]}\n" for it in fake.settings))
    for name in ("PYTHON_DOTENV_DISABLED", *fake.settings):
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run(fake: FakeMailtrap, monkeypatch: Any, capsys: Any) -> Callable[..., Any]:
    """Call a script's main(): run("smtp_client", "--help", NAME="value"); no secret may show."""

    def run(script: str, *arguments: str, **settings: str) -> SimpleNamespace:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        status = importlib.import_module(script).main(list(arguments))
        out, err = capsys.readouterr()
        for secret in ("canary", *(login.split()[1].rstrip("=") for login in fake.logins)):
            assert secret not in out + err
        return SimpleNamespace(status=status, out=out, err=err)

    return run
