"""What all tests share: Mailtrap on loopback, and two ways to run a script against it."""

import base64
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fake_mailtrap import FakeMailtrap

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")
SCRIPTS = ("smtp_client", "api_client")
INHERITED = ("PATH", "HOME", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE")
PORTS: dict[int, int] = {}  # where the ports of Mailtrap's hosts lead to

settings.register_profile(
    "tests",
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")

Run = Callable[..., subprocess.CompletedProcess[str]]


def snippet(title: str) -> str:
    """Return the Python under a heading or a summary of the README."""
    for opening in (f"### {title}\n", f"<summary>{title}</summary>"):
        after = README.partition(opening)[2]
        if after:
            return after.partition("```python\n")[2].partition("```\n")[0]
    raise LookupError(title)


@pytest.fixture(scope="session")
def _servers() -> Iterator[FakeMailtrap]:
    with FakeMailtrap() as fake:
        yield fake


@pytest.fixture
def fake(_servers: FakeMailtrap, monkeypatch: pytest.MonkeyPatch) -> FakeMailtrap:
    """Mailtrap on loopback, as new, and an environment that leads there and nowhere else."""
    _servers.reset()
    for name in os.environ:
        if name.startswith("MAILTRAP_"):
            monkeypatch.delenv(name)
    environment = {**_servers.environment, **_servers.settings, "PYTHON_DOTENV_DISABLED": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NETRC", os.devnull)
    smtp_ports = dict.fromkeys((25, 587, 2525), _servers.smtp_port)
    for port, here in {443: _servers.api_port, **smtp_ports}.items():
        monkeypatch.setitem(PORTS, port, here)
    return _servers


@pytest.fixture(autouse=True, scope="session")
def _look_up() -> None:
    """Lead Mailtrap's host names to this computer; certificates must still be right."""
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if PORTS and str(host).endswith("mailtrap.io"):
            host, port = "127.0.0.1", PORTS.get(port, port)
        return look_up(host, port, *rest, **more)

    socket.getaddrinfo = look_up_here


@pytest.fixture
def folder(fake: FakeMailtrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a filled-in .env, which is what leads to the account; nothing else does."""
    monkeypatch.chdir(tmp_path)
    lines = [f"{name}={value}" for name, value in fake.settings.items()]
    (tmp_path / ".env").write_text("\n".join(lines))
    before = dict(os.environ)
    for name in (*fake.settings, "PYTHON_DOTENV_DISABLED"):
        del os.environ[name]
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def recipe(title: str, name: str = "recipe") -> SimpleNamespace:
    """Run a Python block of the README as it is printed; return its names."""
    names: dict[str, Any] = {"__name__": name}
    exec(compile(snippet(title), title, "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture
def pauses(
    fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> list[float]:
    """The pauses between tries, pretended instead of waited out; each must be announced."""
    recorded: list[float] = []

    def sleep(seconds: float) -> None:
        assert f"trying again in {seconds:.1f} s" in caplog.messages[-1]
        recorded.append(seconds)
        fake.waited += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    return recorded


def checked(fake: FakeMailtrap, result: subprocess.CompletedProcess[str]) -> Any:
    """Return the result; fail if it holds a traceback or a secret, plain or as AUTH encodes it."""
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    for secret in (fake.password, fake.token):
        for shape in (secret, f"\0{fake.username}\0{secret}", f"\0api\0{secret}"):
            assert shape not in output
            assert base64.b64encode(shape.encode()).decode().rstrip("=") not in output
    return result


@pytest.fixture
def run(fake: FakeMailtrap) -> Run:
    """Run a script as its own process: run("smtp_client", "--to", ..., NAME=value, OTHER=None)."""

    def run(script: str, *flags: str | bytes, **changes: str | None) -> Any:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environ = {**inherited, "PYTHONUTF8": "1", "PYTHON_DOTENV_DISABLED": "1"}
        environ = {**environ, **fake.environment, **fake.settings, **changes}
        result = subprocess.run(
            [sys.executable, str(REPOSITORY / f"{script}.py"), *flags],
            env={name: value for name, value in environ.items() if value is not None},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=60,
        )
        return checked(fake, result)

    return run


@pytest.fixture
def call(
    fake: FakeMailtrap, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Call a script's main() in this process, which is quicker; otherwise as run."""

    def call(script: str, *flags: str, **changes: str) -> Any:
        for name, value in changes.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        try:
            status = importlib.import_module(script).main(list(flags))
        except SystemExit as stop:  # argparse
            status = stop.code
        return checked(fake, subprocess.CompletedProcess(script, status, *capsys.readouterr()))

    return call
