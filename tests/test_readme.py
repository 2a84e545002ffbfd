"""The README is true: its outputs, snippets, tables and links."""

import base64
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

import api_client
import smtp_client
from conftest import README, REPOSITORY, SANDBOX, SCRIPTS, snippet
from fake_mailtrap import FakeMailtrap


@pytest.fixture(autouse=True)
def _folder(fake: FakeMailtrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's empty folder, with settings in the environment."""
    monkeypatch.chdir(tmp_path)


def execute(title: str) -> dict[str, Any]:
    """Run the snippet under a heading; return the names that it defines."""
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(snippet(title), title, "exec"), names)
    return names


@pytest.mark.parametrize("transport", ["SMTP", "the API"])
def test_one_message(transport, fake):
    execute(f"One message over {transport}")
    [captured] = fake.messages
    assert (captured.transport, captured.recipients) == (transport, ["ann@example.com"])
    assert (captured.subject, captured.text.strip()) == ("Order", "Thank you.")


def test_many_messages_over_smtp_respect_the_limits(fake, monkeypatch):
    fake.rate = 3
    monkeypatch.setattr(time, "sleep", lambda _: setattr(fake, "rate", 1000))
    send_many = execute("Many messages over SMTP")["send_many"]
    assert [one.recipients for one in fake.messages] == [[f"user{n}@example.com"] for n in range(5)]
    assert len(fake.logins) == 1 + 2, "one connection, and two tries on others"
    fake.reset()
    message = smtp_client.build_message("a@b.c", to=["d@e.f"], subject="x", text="x")
    send_many([message] * 201)
    assert (len(fake.messages), len(fake.logins)) == (201, 3)


def test_a_batch_tells_which_messages_were_refused(fake, capsys):
    execute("A batch over the API")
    assert [one.recipients[0] for one in fake.messages] == ["ann@example.com", "bob@example.com"]
    assert capsys.readouterr().out == ""
    exec(snippet("A batch over the API").replace("bob@", "bob"), {})
    assert capsys.readouterr().out == "bobexample.com [\"'email' is invalid\"]\n"
    assert len(fake.messages) == 3


def test_a_template(fake):
    execute("A template")
    assert fake.messages[0].source["template_variables"]["items"] == [{"title": "Tea", "price": 4}]


def test_files_an_inline_image_category_and_variables(fake):
    message = execute("Files, an inline image, category and variables over SMTP")["message"]
    mail = execute("The same over the API")["mail"]
    account = "127.0.0.1", fake.smtp_port, fake.username, fake.password
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


def test_a_ledger_keeps_mails_from_going_out_twice(fake, monkeypatch):
    names = execute("Mails that must not go out twice")
    send_once, mail, ledger = names["send_once"], names["mail"], names["ledger"]
    send_once("order 4711", mail)
    assert len(fake.messages) == 1
    answers = [api_client.OutcomeUnknownError(), ValueError()]
    monkeypatch.setitem(names, "send", lambda *_: (_ for _ in ()).throw(answers.pop(0)))
    for number in (1, 2):
        with contextlib.suppress(api_client.OutcomeUnknownError, ValueError):
            send_once(number, mail)
    rows = ledger.execute("SELECT id, state FROM mails").fetchall()
    assert sorted(rows) == [("1", "unknown"), ("order 4711", "sent")]
    ledger.close()


def test_django(fake, tmp_path):
    (tmp_path / "settings.py").write_text(snippet("Django's settings.py"))
    call = "send_mail('Order', 'Thank you.', None, ['ann@example.com'])"
    program = f"from django.core.mail import send_mail; {call}"
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "settings",
        "MAILTRAP_SMTP_HOST": "localhost",
    }
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environ, check=True)
    [captured] = fake.messages
    assert (captured.sender, captured.recipients) == ("shop@example.com", ["ann@example.com"])
    assert {tls for _, tls in fake.logins} == {True}


def test_fastapi(fake):
    app = execute("FastAPI: main.py")["app"]
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    orders = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/orders"
    for email, status in (("ann@example.com", 202), ("nobody", 422), ("a@e.com, b@e.com", 422)):
        with requests.Session() as session:
            session.trust_env = False
            assert session.post(orders, params={"email": email}).status_code == status
    server.should_exit = True
    thread.join(10)
    assert [captured.recipients for captured in fake.messages] == [["ann@example.com"]]


def test_celery(fake, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER", "memory://")
    names = execute("Celery: tasks.py")
    task = names["mail_order"]
    assert task.apply(["ann@example.com"]).get() == [fake.messages[0].id]
    fake.rate = 0
    assert "429 Rate limit exceeded" in str(task.apply(["bob@example.com"], retries=5).result)
    assert "Slow down" in str(task.apply(["bob@example.com"], retries=5).result)


def test_captured_messages_can_be_read_back(fake, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    captured = execute("Reading back what the sandbox captured")["captured"]
    execute("One message over SMTP")
    assert captured("Order").strip() == "Thank you."
    with pytest.raises(LookupError, match="not captured: Another"):
        captured("Another")


def test_statistics_count_what_went_live(fake, capsys, call):
    call("api_client", "--stream", "bulk")
    fake.messages[0].at = "2026-11-24T00:00:00+00:00"
    execute("Statistics of what was sent live")
    assert capsys.readouterr().out == "1\n"


def test_the_live_check_proves_itself_on_the_stand_in(fake):
    check = [sys.executable, "-m", "pytest", "-m", "live", "-n0", "-p", "no:cacheprovider"]
    result = subprocess.run([*check, str(REPOSITORY)], capture_output=True, text=True)
    assert (result.returncode, len(fake.messages)) == (0, 2), result.stdout


# What is printed


def timeless(output: str) -> str:
    """Return the output without what differs from run to run."""
    output = re.sub(r"<\d[\d.]+@", "<ID@", output)
    output = re.sub(r"mailtrap\.io:\d+", "mailtrap.io:PORT", output)
    return re.sub(
        r"in \d+\.\d s", "in N s", re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "NOW", output)
    )


def test_the_outputs_are_as_printed(call, fake):
    success = call("smtp_client", **SANDBOX, MAILTRAP_SMTP_PORT=str(fake.smtp_port))
    failure = call("api_client", MAILTRAP_API_TOKEN="wrong")
    shown = README.partition("## What you see")[2].partition("```console\n")[2].partition("```")[0]
    python = "$ .venv/bin/python"
    told = f"{python} smtp_client.py\n{success.stdout}{python} api_client.py\n{failure.stderr}"
    assert timeless(shown) == timeless(told)


def stand_in(*command: str, **options: Any) -> Any:
    """Run the stand-in as a program."""
    program = [sys.executable, str(REPOSITORY / "tests" / "fake_mailtrap.py"), *command]
    return subprocess.run(program, capture_output=True, encoding="utf-8", **options)


def test_the_try_out_shows_commands_outputs_and_what_arrived():
    result = stand_in()
    assert (result.returncode, result.stderr) == (0, "")
    first, *_, last = result.stdout.splitlines()
    assert "127.0.0.1" in first
    assert "nothing leaves this machine" in first
    assert ".env" in last
    for words in (
        "python smtp_client.py\n",
        "python api_client.py\n",
        "Arrived over SMTP",
        "Arrived over the API",
    ):
        assert result.stdout.count(words) == 1
    assert result.stdout.count("  | It works") == result.stdout.count("Accepted by ") == 2


def test_the_stand_in_runs_any_command_and_shows_messages_as_they_arrive():
    sends = f"import runpy; runpy.run_path('{REPOSITORY / 'smtp_client.py'}', run_name='__main__')"
    result = stand_in(sys.executable, "-c", sends)
    assert result.returncode == 0
    assert result.stdout.index("Arrived over SMTP") < result.stdout.index("Accepted by")
    assert stand_in(sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    assert stand_in("no-such-command").returncode == 127


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_reader_of_the_try_out_may_go_away():
    program = f"'{sys.executable}' '{REPOSITORY}/tests/fake_mailtrap.py' | head -n 3"
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert (result.stderr, len(result.stdout.splitlines())) == ("", 3)


def test_the_benchmark_runs():
    program = [sys.executable, str(REPOSITORY / "tests" / "benchmark.py"), "--quick"]
    result = subprocess.run(program, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    measured = [
        line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("|")
    ]
    section = README.partition("## SMTP or API?")[2].partition("<details>")[0]
    shown = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    assert set(measured[1:]) <= set(shown)


def test_the_flags_are_those_of_the_scripts(run):
    section = README.partition("## Settings and flags")[2].partition("## Tests")[0]
    shown = set(re.findall(r"`(--[\w-]+)", section))
    helps = [run(script, "--help").stdout for script in SCRIPTS]
    assert shown | {"--help"} == set(re.findall(r"--[a-z-]+\b", " ".join(helps)))


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).exists()
