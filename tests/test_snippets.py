"""The README's code, as printed: executed with the real libraries, and typed."""

import contextlib
import itertools
import json
import os
import pickle
import re
import smtplib
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mailtrap as mt
import pytest
import requests
import uvicorn

import api_client
import smtp_client
from conftest import REPOSITORY, spoil
from fake_mailtrap import FakeMailtrap

CODE = re.findall(r"^```python\n(.*?)^```$", (REPOSITORY / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)


def code(title: str) -> str:
    [found] = [block for block in CODE if title in block.splitlines()[0]]
    return found


def execute(title: str) -> dict[str, Any]:
    """Run a block; return the names that it defines."""
    names: dict[str, Any] = {"__name__": "snippet"}
    with contextlib.suppress(SystemExit):
        exec(compile(code(title), title, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _project(fake: FakeMailtrap, smtp_names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's folder, with settings and files."""
    for name, value in {**fake.settings, "NETRC": os.devnull}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "invoice.pdf").write_bytes(b"%PDF")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def text_of(number: int) -> str:
    return f"Message {number}"


def test_one_message_over_smtp(fake: FakeMailtrap) -> None:
    assert execute("One message over SMTP")["refused"] == {}
    [captured] = fake.messages
    assert (captured.transport, captured.recipients, captured.message["Subject"]) == (
        "smtp",
        ["ann@example.com"],
        "Your order",
    )
    assert fake.commands[-1] == "QUIT"


def test_a_failing_quit_does_not_look_like_a_failure_to_send(fake: FakeMailtrap) -> None:
    fake.smtp_replies["QUIT"] = ["421 4.3.0 going down"]
    assert execute("One message over SMTP")["refused"] == {}
    assert len(fake.messages) == 1


def test_a_failing_quit_at_the_end_of_smtplibs_own_with_is_not_tried_again(fake: FakeMailtrap) -> None:
    message = smtp_client.build_message("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")

    def attempt() -> None:
        with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
            smtp_client.send(smtp, message)

    fake.smtp_replies["QUIT"] = ["421 4.3.0 going down"]
    with pytest.raises(smtplib.SMTPResponseException) as raised:
        smtp_client.send_with_retries(attempt, explain=smtp_client.explain)
    assert smtp_client.explain(raised.value)[2:] == (74, False)
    assert len(fake.messages) == 1


def test_messages_over_the_api(fake: FakeMailtrap, no_waits: None) -> None:
    fake.api_replies = [(429, {"success": False, "errors": ["Rate limit exceeded"]})]
    assert execute("One message over the API")["message_ids"] == [fake.messages[-1].id]
    assert [captured.recipients for captured in fake.messages] == [["ann@example.com"], ["bob@example.com"]]


def test_many_messages_over_smtp(fake: FakeMailtrap) -> None:
    messages = [
        smtp_client.build_message("a@example.com", to=["b@example.com"], subject=text_of(number), text="It works.")
        for number in range(250)
    ]
    send_many = execute("Many messages over SMTP")["send_many"]
    assert list(send_many(messages, fake.username, fake.password)) == [{}] * 250
    assert [captured.message["Subject"] for captured in fake.messages] == [text_of(number) for number in range(250)]
    assert len(fake.logins) == 3


def test_many_messages_over_smtp_go_on_where_one_failed(fake: FakeMailtrap) -> None:
    messages = [
        smtp_client.build_message("a@example.com", to=["b@example.com"], subject=text_of(number), text="It works.")
        for number in range(5)
    ]
    send_many = execute("Many messages over SMTP")["send_many"]
    sending, done = send_many(messages, fake.username, fake.password), 0
    while done < 2:
        assert next(sending) == {}
        done += 1
    fake.smtp_replies["DATA"] = ["550 5.7.1 no"]
    with pytest.raises(smtplib.SMTPDataError):
        next(sending)
    list(send_many(messages[done:], fake.username, fake.password))
    assert [captured.message["Subject"] for captured in fake.messages] == [text_of(number) for number in range(5)]


def batch(fake: FakeMailtrap, count: int, wrong: tuple[int, ...] = ()) -> Iterator[list[str]]:
    base = mt.BatchMail(sender=mt.Address("a@example.com"), subject="News", text="It is spring.")
    emails = ["nobody" if number in wrong else f"{number}@example.com" for number in range(count)]
    send_batch = execute("500 in a call")["send_batch"]
    fake.reset()
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    return send_batch(api, base, [mt.BatchEmailRequest(to=[mt.Address(email)]) for email in emails])


def test_a_batch_reports_failures_in_order(fake: FakeMailtrap) -> None:
    results = list(batch(fake, 1003, wrong=(2, 700)))
    assert [number for number, errors in enumerate(results) if errors] == [2, 700]
    assert "'to.0.email' is invalid" in results[700][0]
    assert [len(content["requests"]) for _, _, _, content in fake.requests] == [500, 500, 3]
    assert len({captured.recipients[0] for captured in fake.messages}) == len(fake.messages) == 1001


def test_a_batch_is_tried_again_only_where_nothing_was_taken(fake: FakeMailtrap, no_waits: None) -> None:
    sending = batch(fake, 501)
    assert next(sending) == []
    fake.api_replies = [(429, {"success": False, "errors": ["Rate limit exceeded"]})]
    assert list(sending) == [[]] * 500
    assert len(fake.messages) == 501


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((401, {"success": False, "errors": ["Unauthorized"]}), 77),
        ((502, "Bad gateway"), 74),
        ((200, {"success": True, "responses": []}), 74),
        ((200, {"success": True}), 74),
    ],
)
def test_a_batch_that_breaks_off_has_told_what_was_taken(
    answer: tuple[int, Any], status: int, fake: FakeMailtrap
) -> None:
    sending = batch(fake, 700)
    assert list(itertools.islice(sending, 500)) == [[]] * 500
    fake.api_replies = [answer]
    with pytest.raises((mt.APIError, TypeError, ValueError)) as raised:
        next(sending)
    assert api_client.explain(raised.value)[2] == status
    assert (len(fake.requests), len(fake.messages)) == (2, 500)


@pytest.mark.parametrize(("second", "status"), [("bob@example.com", 0), ("bob", 65)])
def test_a_batch_as_a_program(second: str, status: int, fake: FakeMailtrap, tmp_path: Path) -> None:
    (tmp_path / "news.py").write_text(code("500 in a call").replace("bob@example.com", second), "utf-8")
    result = subprocess.run(
        [sys.executable, "news.py"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status
    assert bool(status) == result.stderr.startswith("bob: 'to.0.email' is invalid")
    assert len(fake.messages) == (1 if status else 2)


def test_what_a_message_may_carry(fake: FakeMailtrap) -> None:
    names = execute("What a message may carry")
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        smtp_client.send(smtp, names["message"])
    api = api_client.open_api(fake.token, "sandbox", fake.sandbox_id)
    for mail in (names["mail"], names["templated"]):
        api_client.send(api, mail)
    over_smtp, over_api, templated = fake.messages
    assert [part.get_content_type() for part in over_smtp.message.walk()] == [
        "multipart/mixed",
        "multipart/related",
        "text/html",
        "image/png",
        "application/pdf",
    ]
    [image] = [part for part in over_smtp.message.walk() if part.get_content_type() == "image/png"]
    assert (image["Content-ID"], image.get_content_disposition(), image.get_content()) == (
        "<logo>",
        "inline",
        b"\x89PNG",
    )
    assert b'\r\nX-MT-Category: orders\r\nX-MT-Custom-Variables: {"order": "4711"}\r\n' in over_smtp.source
    assert (over_api.source["category"], over_api.source["custom_variables"]) == ("orders", {"order": "4711"})
    assert [one["filename"] for one in over_api.source["attachments"]] == ["invoice.pdf", "logo.png"]
    assert over_api.source["attachments"][1]["content_id"] == "logo"
    assert over_api.source["attachments"][1]["disposition"] == "inline"
    assert templated.source["template_variables"]["items"] == [{"title": "Tea", "price": 4}]
    assert not {"subject", "text", "html", "category"} & {*templated.source}


def test_long_custom_variables_are_not_folded(fake: FakeMailtrap) -> None:
    variables = json.dumps({f"name {number}": "two words" for number in range(40)})
    assert 900 < len(variables) < 970
    message = smtp_client.build_message("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")
    message["X-MT-Custom-Variables"] = variables
    with smtp_client.connect("127.0.0.1", fake.smtp_port, fake.username, fake.password) as smtp:
        smtp_client.send(smtp, message)
    assert f"\r\nX-MT-Custom-Variables: {variables}\r\n".encode() in fake.messages[0].source


@pytest.fixture
def send_with_django(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return Django's own way to send, under the README's settings."""
    from django.conf import settings
    from django.core.mail import send_mail

    if not settings.configured:
        (tmp_path / "mail_settings.py").write_text(code("settings.py of Django"), "utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "mail_settings")
    return send_mail


def test_django(send_with_django: Callable[..., int], fake: FakeMailtrap) -> None:
    assert send_with_django("Your order", "Thank you.", None, ["ann@example.com"]) == 1
    assert (fake.messages[0].recipients, fake.messages[0].message["From"]) == (
        ["ann@example.com"],
        "Shop <shop@example.com>",
    )
    assert {tls for _, tls in fake.logins} == {True}


@pytest.mark.parametrize("how", ["untrusted", "wrong name"])
def test_django_checks_the_certificate(
    how: str, send_with_django: Callable[..., int], fake: FakeMailtrap, server_tls: ssl.SSLContext
) -> None:
    spoil(how, server_tls, fake.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        send_with_django("Your order", "Thank you.", None, ["ann@example.com"])
    assert (fake.logins, fake.messages) == ([], [])


def test_fastapi(fake: FakeMailtrap) -> None:
    server = uvicorn.Server(uvicorn.Config(execute("FastAPI")["app"], port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    orders = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/orders"
    with requests.Session() as session:
        session.trust_env = False
        assert session.post(orders, params={"email": "ann@example.com"}).status_code == 202
        for wrong in ("nobody", "a@example.com\r\nBcc: b@example.com", "a@example.com, b@example.com"):
            assert session.post(orders, params={"email": wrong}).status_code == 422
    server.should_exit = True
    thread.join(10)
    assert [captured.recipients for captured in fake.messages] == [["ann@example.com"]]


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module tasks.py, with a worker of two processes."""
    (tmp_path / "tasks.py").write_text(code("tasks.py for Celery"), "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    import tasks

    yield tasks
    worker.terminate()
    worker.wait(30)


@pytest.mark.skipif(os.name == "nt", reason="Celery's workers do not run on Windows")
def test_celery(tasks: Any, fake: FakeMailtrap) -> None:
    sent = [tasks.mail_order.delay(f"{number}@example.com") for number in range(4)]
    ids = [result.get(timeout=60) for result in sent]
    assert sorted(ids) == [[captured.id] for captured in fake.messages]
    assert sorted(captured.recipients[0] for captured in fake.messages) == [f"{n}@example.com" for n in range(4)]

    fake.api_replies = [(429, {"success": False, "errors": ["Rate limit exceeded"]})]
    assert tasks.mail_order.delay("again@example.com").get(timeout=60) == [fake.messages[-1].id]
    assert (len(fake.messages), len(fake.requests)) == (5, 6)

    for status, answer in ((401, {"success": False, "errors": ["Unauthorized"]}), (502, "Bad gateway")):
        fake.api_replies = [(status, answer)]
        failed = tasks.mail_order.delay("never@example.com")
        with pytest.raises(RuntimeError, match=str(status)) as raised:
            failed.get(timeout=60)
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert (len(fake.messages), len(fake.requests)) == (5, 8)


def test_captured_messages_can_be_read_back(
    fake: FakeMailtrap, no_waits: None, capsys: pytest.CaptureFixture[str]
) -> None:
    captured = execute("In your tests")["captured"]
    assert "delivery_count=0" in capsys.readouterr().out
    execute("One message over SMTP")
    assert captured("Your order").strip() == "Thank you."
    with pytest.raises(AssertionError, match="not captured: Another order"):
        captured("Another order")


def test_statistics_count_what_went_live(fake: FakeMailtrap) -> None:
    for stream, sandbox_id in (("sandbox", fake.sandbox_id), ("transactional", ""), ("bulk", "")):
        mail = api_client.build_mail("a@example.com", to=["b@example.com"], subject="Hello", text="It works.")
        api_client.send(api_client.open_api(fake.token, stream, sandbox_id), mail)
    stats = mt.MailtrapClient(fake.token).stats_api
    for start, end, count in (("2026-01-01", "2999-12-31", 2), ("2020-01-01", "2020-12-31", 0)):
        days = mt.StatsFilterParams(start_date=start, end_date=end)
        assert stats.get(int(fake.account_id), days).delivery_count == count


def test_the_live_check_proves_itself_on_the_stand_in(fake: FakeMailtrap) -> None:
    check = [sys.executable, "-m", "pytest", "-m", "live", "-n0", "-rs", "-p", "no:cacheprovider", str(REPOSITORY)]
    result = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (result.returncode, len(fake.messages)) == (0, 2), result.stdout
    assert "2 passed" in result.stdout

    missing = {
        **os.environ,
        **dict.fromkeys(("MAILTRAP_SMTP_HOST", "MAILTRAP_SMTP_PASSWORD", "MAILTRAP_API_TOKEN"), ""),
    }
    result = subprocess.run(check, env=missing, capture_output=True, text=True, check=False)
    assert (result.returncode, len(fake.messages)) == (0, 2), result.stdout
    assert "2 skipped" in result.stdout
    assert "MAILTRAP_API_TOKEN is missing" in result.stdout
    assert "MAILTRAP_SMTP_PASSWORD is missing" in result.stdout

    live = {**os.environ, "MAILTRAP_STREAM": "bulk"}
    result = subprocess.run(check, env=live, capture_output=True, text=True, check=False)
    assert "MAILTRAP_STREAM must be sandbox" in result.stdout

    fake.api_replies = [(200, {"success": True, "message_ids": ["1"]})]  # and yet nothing is captured
    result = subprocess.run([*check, "-k", "api_client"], capture_output=True, text=True, check=False)
    assert "1 failed" in result.stdout


def test_the_code_is_typed(tmp_path: Path) -> None:
    for number, block in enumerate(CODE):
        (tmp_path / f"block{number}.py").write_text(block, "utf-8")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--allow-untyped-decorators"),
            *("--config-file", str(REPOSITORY / ".mypy.ini"), *sorted(str(path) for path in tmp_path.glob("*.py"))),
        ],
        env={**os.environ, "MYPYPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
