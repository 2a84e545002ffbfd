"""Every function that people copy works alone: cut out of its script, with nothing but the imports it needs."""

import ast
import smtplib
import textwrap
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY, SCRIPTS, Run
from fake_mailtrap import FakeMailtrap

COPIED = {
    "smtp_client": ["build_message", "connect", "send", "send_with_retries", "explain", "read_settings"],
    "api_client": ["build_mail", "open_api", "send", "send_with_retries", "explain", "read_settings"],
}


def tree_of(script: str) -> ast.Module:
    return ast.parse((REPOSITORY / f"{script}.py").read_text("utf-8"))


def alone(script: str, name: str) -> Any:
    """Return the function after running nothing but the script's imports and its own definition."""
    tree = tree_of(script)
    kept = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    kept += [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module(kept, []), f"{name}.py", "exec"), namespace)
    return namespace[name]


@pytest.mark.parametrize(("script", "name"), [(script, name) for script in SCRIPTS for name in COPIED[script]])
def test_a_function_uses_no_other_name_of_its_script(script: str, name: str) -> None:
    tree = tree_of(script)
    [function] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    others = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} - {name}
    others |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}
    parameters = {one.arg for node in ast.walk(function) if isinstance(node, ast.arguments) for one in node.kwonlyargs}
    used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    assert not used & others - parameters


@pytest.mark.parametrize(("script", "name"), [(script, name) for script in SCRIPTS for name in COPIED[script]])
def test_a_function_neither_prints_nor_exits_nor_reads_the_environment(script: str, name: str) -> None:
    [function] = [node for node in tree_of(script).body if isinstance(node, ast.FunctionDef) and node.name == name]
    used = {ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Name | ast.Attribute)}
    assert not used & {"print", "show", "sys", "os", "load_dotenv", "sys.exit", "os.environ"}


def test_copied_smtp_functions_send_a_message(fake: FakeMailtrap, call: Run) -> None:
    call("smtp_client", "--dry-run")  # sets the environment
    build, connect, send, retry = (alone("smtp_client", name) for name in COPIED["smtp_client"][:4])
    message = build("Me <me@example.com>", to=["you@example.com"], subject="Alone", text="Hello")
    with connect("127.0.0.1", fake.smtp_port, fake.username, fake.password, timeout=5.0) as smtp:
        assert retry(lambda: send(smtp, message), explain=alone("smtp_client", "explain")) == {}
    assert [captured.message["Subject"] for captured in fake.messages] == ["Alone"]


def test_copied_api_functions_send_a_message(fake: FakeMailtrap, call: Run) -> None:
    call("api_client", "--dry-run")
    build, open_api, send, retry = (alone("api_client", name) for name in COPIED["api_client"][:4])
    mail = build("Me <me@example.com>", to=["you@example.com"], subject="Alone", text="Hello")
    api = open_api(fake.token, "sandbox", fake.sandbox_id, timeout=5)
    assert retry(lambda: send(api, mail), explain=alone("api_client", "explain")) == [fake.messages[0].id]
    assert fake.messages[0].message["Subject"] == "Alone"


@pytest.mark.parametrize("script", SCRIPTS)
def test_copied_explain_and_read_settings_answer(script: str) -> None:
    happened, advice, status, safe = alone(script, "explain")(TimeoutError("timed out"))
    assert (happened, safe) == ("timed out", False)
    assert status == (69 if script == "smtp_client" else 74)
    assert advice
    with pytest.raises(ValueError, match="MAILTRAP_TO_EMAIL is missing"):
        alone(script, "read_settings")({})


def test_retries_wait_longer_each_time_and_outlast_the_window_of_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    waits: list[float] = []
    lines: list[str] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for script in SCRIPTS:
        waits.clear()
        lines.clear()

        def attempt() -> None:
            raise smtplib.SMTPDataError(450, b"busy")

        with pytest.raises(smtplib.SMTPDataError):
            alone(script, "send_with_retries")(
                attempt, explain=lambda error: ("busy", "", 75, True), notify=lines.append
            )
        assert len(waits) == len(lines) == 3
        assert sum(waits) > 10
        assert waits == sorted(waits)
        assert all(line.startswith("busy; trying again in ") for line in lines)


def test_the_two_scripts_are_parallel() -> None:
    def outline(script: str) -> list[str]:
        return [node.name for node in tree_of(script).body if isinstance(node, ast.FunctionDef)]

    renamed = {"build_mail": "build_message", "open_api": "connect"}
    assert [renamed.get(name, name) for name in outline("api_client")] == outline("smtp_client")
    shared = ("send_with_retries", "show", "read_settings")
    for name in shared[:2]:
        sources = []
        for script in SCRIPTS:
            source = (REPOSITORY / f"{script}.py").read_text("utf-8")
            [node] = [node for node in tree_of(script).body if isinstance(node, ast.FunctionDef) and node.name == name]
            sources.append(textwrap.dedent(ast.get_source_segment(source, node) or ""))
        assert sources[0] == sources[1]


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    for script in SCRIPTS:
        for node in tree_of(script).body:
            assert isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign | ast.If) or isinstance(
                getattr(node, "value", None), ast.Constant
            )
