"""The README is true: its commands, outputs, Python blocks, tables and links."""

import ast
import base64
import os
import re
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import requests
import uvicorn

import api_client
import smtp_client
from conftest import PORTS, README, REPOSITORY, SCRIPTS, recipe, snippet
from faulty import Fault, FaultyApi, http


@pytest.mark.parametrize("transport", ["SMTP", "the API"])
def test_one_message(transport, folder, fake, capsys):
    recipe(f"One message over {transport}")
    [captured] = fake.messages
    assert (captured.transport, captured.recipients) == (transport, ["ann@example.com"])
    assert (captured.subject, captured.text.strip()) == ("Order", "Thank you.")
    expected = "" if transport == "SMTP" else f"Message ids: ['{captured.id}']\n"
    assert capsys.readouterr().out == expected


def test_one_message_says_who_was_refused(folder, fake, capsys):
    code = snippet("One message over SMTP")
    both = '["bounce+550+no+such@example.com", "ann@example.com"]'
    exec(code.replace('["ann@example.com"]', both), {})
    printed = "bounce+550+no+such@example.com was refused: 550 b'no such'\n"
    assert (capsys.readouterr().out, len(fake.messages)) == (printed, 1)


def test_a_template(folder, fake):
    recipe("A template over the API")
    assert fake.messages[0].source["template_variables"]["items"] == [{"title": "Tea", "price": 4}]


def test_files_an_inline_image_category_and_variables(folder, fake):
    title = "Files, an inline image, category and variables over"
    message, mail = recipe(f"{title} SMTP").message, recipe(f"{title} the API").mail
    account = "localhost", fake.smtp_port, fake.username, fake.password
    smtp_client.connect_and_send(*account, message)
    api_client.send(api_client.open_api(fake.token, "sandbox", fake.sandbox_id), mail)
    over_smtp, over_api = (captured.source for captured in fake.messages)
    kinds = [part.get_content_type() for part in message.walk()]
    related = ["multipart/mixed", "multipart/related", "text/html", "image/gif", "text/plain"]
    assert kinds == related
    assert b"Content-ID: <logo>" in over_smtp
    assert b'X-MT-Category: orders\r\nX-MT-Custom-Variables: {"order": "4711"}\r\n' in over_smtp
    assert (over_api["category"], over_api["custom_variables"]) == ("orders", {"order": "4711"})
    files = [(one["filename"], one.get("content_id")) for one in over_api["attachments"]]
    assert files == [("invoice.txt", None), ("logo.gif", "logo")]
    image = next(part for part in message.walk() if part.get_content_type() == "image/gif")
    assert image.get_content() == base64.b64decode(over_api["attachments"][1]["content"])


def test_django(folder, fake):
    (folder / "settings.py").write_text(snippet("Django: settings.py"))
    call = "send_mail('Order', 'Thank you.', None, ['ann@example.com'])"
    program = f"from django.core.mail import send_mail; {call}"
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "settings"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environ, check=True)
    [captured] = fake.messages
    assert (captured.sender, captured.recipients) == ("shop@example.com", ["ann@example.com"])
    assert {tls for _, tls in fake.logins} == {True}


def test_fastapi(folder, fake, caplog):
    names = recipe("FastAPI: main.py")
    server = uvicorn.Server(uvicorn.Config(names.app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    orders = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/orders"
    for email, status in (("ann@example.com", 202), ("nobody", 422), ("a@e.com, b@e.com", 422)):
        assert requests.post(orders, params={"email": email}, timeout=9).status_code == status
    server.should_exit = True
    thread.join(10)
    assert [captured.recipients for captured in fake.messages] == [["ann@example.com"]]
    fake.token, token = "another", fake.token
    mail = api_client.build_mail("a@b.c", to=["ann@example.com"], subject="x", text="x")
    names.deliver(mail)
    fake.token = token
    assert "not sent: [Address(email='ann@example.com'" in caplog.text


def test_celery_sends_and_tells_what_is_refused_in_errors_that_can_be_pickled(
    folder, fake, monkeypatch
):
    monkeypatch.setenv("CELERY_BROKER", "memory://")
    task = recipe("Celery: tasks.py").mail_order
    assert task.apply(["ann@example.com"]).get() == [fake.messages[0].id]
    fake.rate = 0
    refused = task.apply(["bob@example.com"], retries=5).result
    assert (type(refused), str(refused)) == (RuntimeError, "429 Rate limit exceeded")


def test_celery_does_not_try_again_what_may_have_been_sent(folder, fake, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER", "memory://")
    names = recipe("Celery: tasks.py")
    fault = Fault("body", http(502, b"<h1>No</h1>"), "close", takes=True)
    with FaultyApi(fake.tls, fault) as server:
        monkeypatch.setitem(PORTS, 443, server.port)
        result = names.mail_order.apply(["ann@example.com"]).result
    assert isinstance(result, api_client.OutcomeUnknownError)
    assert len(server.taken) == 1


def test_captured_messages_can_be_read_back(folder, fake, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    recipe("One message over SMTP")
    captured = recipe("Reading back what the sandbox captured").captured
    assert captured("Order").strip() == "Thank you."
    with pytest.raises(LookupError, match="not captured: Another"):
        captured("Another")


def test_every_python_block_loads_dotenv_itself_and_uses_what_it_imports():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        tree = ast.parse(block)
        imported = {
            (name.asname or name.name).partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in node.names
        }
        assert imported <= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert ("os.environ[" in block) == ("load_dotenv(" in block)
        assert '"sandbox"' not in block, "it would have to be changed to go live"


def test_the_live_check_proves_itself_on_the_stand_in(fake):
    check = [sys.executable, "-m", "pytest", "-m", "live", "-n0", "-p", "no:cacheprovider"]
    result = subprocess.run([*check, str(REPOSITORY)], capture_output=True, text=True)
    assert (result.returncode, len(fake.messages)) == (0, 2), result.stdout


# What is printed


def timeless(output: str) -> str:
    """Return the output without what differs from run to run."""
    output = re.sub(r"<\d[\d.]+@", "<ID@", output)
    output = re.sub(r"Message id  \d+", "Message id  ID", output)
    output = re.sub(r"\d{4}-\d\d-\d\d (at )?\d\d:\d\d:\d\d", r"\1NOW", output)
    return re.sub(r"in \d+\.\d\d s", "in N s", output)


def test_the_outputs_are_as_printed(call):
    section = README.partition("## What you see")[2].partition("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        printed = ""
        for command in re.findall(r"^\$ \.venv/bin/python (.*)$", block, re.MULTILINE):
            script, *flags = command.split()
            result = call(script.removesuffix(".py"), *flags)
            sending, *failure = result.stderr.splitlines(keepends=True)
            printed += f"$ .venv/bin/python {command}\n{sending}{result.stdout}{''.join(failure)}"
        assert timeless(block) == timeless(printed)


def stand_in(*command: str, **options: Any) -> Any:
    """Run the stand-in as a program."""
    program = [sys.executable, str(REPOSITORY / "tests" / "fake_mailtrap.py"), *command]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(program, encoding="utf-8", env=environ, **out, **options)


def test_the_try_out_prints_what_the_readme_says():
    result = stand_in()
    assert result.returncode == 0
    shown = README.partition("<summary>What it prints")[2].partition("```console\n")[2]
    shown = shown.partition("...\n```")[0]
    assert timeless(result.stdout).startswith(timeless(shown))
    for words in ("no real mail is sent", "Sending to sandbox.api.mailtrap.io ...", "over the API"):
        assert result.stdout.count(words) == 1
    assert "README.md" in result.stdout.splitlines()[-1]


def test_the_stand_in_runs_any_python_program_and_then_shows_what_arrived():
    result = stand_in(sys.executable, str(REPOSITORY / "smtp_client.py"))
    order = ["A stand-in", "replace those in .env", "Accepted by", "Arrived over SMTP"]
    places = [result.stdout.index(words) for words in order]
    assert (result.returncode, places) == (0, sorted(places))
    nothing = stand_in(sys.executable, "-c", "raise SystemExit(7)")
    assert (nothing.returncode, "No message has arrived" in nothing.stdout) == (7, True)
    assert stand_in("no-such-command").returncode == 127


def test_the_benchmark_runs():
    program = [sys.executable, str(REPOSITORY / "tests" / "benchmark.py"), "--quick"]
    result = subprocess.run(program, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines() if "|" in line]
    shown = [line.split("|")[1].strip() for line in README.splitlines() if "|" in line]
    assert len(rows) > 8
    assert set(rows) <= set(shown)


def test_the_flags_are_those_of_the_scripts(run):
    section = README.partition("## Settings and flags")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`(--[\w-]+)", section))
    helps = [run(script, "--help").stdout for script in SCRIPTS]
    assert shown | {"--help"} == set(re.findall(r"--[a-z-]+\b", " ".join(helps)))


@pytest.mark.parametrize(("script", "column"), [(smtp_client, 2), (api_client, 3)])
def test_what_the_table_says_to_copy_is_as_long_as_it_says_and_complete(script, column, tmp_path):
    section = README.partition("## Copy into your project")[2].partition("```ini")[0]
    source = (REPOSITORY / f"{script.__name__}.py").read_text("utf-8")
    parts = {getattr(node, "name", ""): node for node in ast.parse(source).body}
    first = min(node.lineno for name, node in parts.items() if name)
    copied = "".join(source.splitlines(keepends=True)[: first - 1])  # imports and constants
    for row in section.splitlines():
        cell = (row.split("|") + [""] * 5)[column]
        names = re.findall(r"`(\w+)`", cell)
        texts = [str(ast.get_source_segment(source, parts[name])) for name in names]
        for said in re.findall(r": (\d+) lines", cell):
            assert abs(sum(len(text.splitlines()) for text in texts) - int(said)) <= 5
        copied += "\n".join([*texts, ""])
        (tmp_path / "copied.py").write_text(copied)
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
        subprocess.run([*ruff, str(tmp_path)], check=True)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists()
