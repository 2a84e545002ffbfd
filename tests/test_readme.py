"""The README is true: its blocks run as printed, and what it shows is what is seen."""

import base64
import re
import signal
import smtplib
import subprocess
import sys

import mailtrap as mt
import pytest
import tenacity
from dotenv import dotenv_values

import api_client
import smtp_client
from conftest import README, REPOSITORY, api_of, new_mail, python, python_until_sent
from fake_mailtrap import Fault, http

BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
STAND_IN = REPOSITORY / "tests" / "fake_mailtrap.py"
UNKNOWN = smtp_client.OutcomeUnknownError


def run_block(words: str) -> dict:
    """Run the Python block with these words as it is printed; return its names."""
    [block] = [block for block in BLOCKS if words in block]
    names: dict = {}
    exec(compile(block, words, "exec"), names)
    return names


def test_the_short_blocks(folder, fake, capsys, monkeypatch):
    assert run_block("refused = smtp.sendmail")["refused"] == {}
    assert run_block("message_ids = send(")["message_ids"] == ["5000002"]
    assert [it.recipients for it in fake.messages] == [["ann@example.com"]] * 2
    run_block("requests.get(folder")
    assert capsys.readouterr().out.split() == ["Hi", "Hello."] * 2
    assert api_client.send(api_of(fake), run_block("MailFromTemplate")["mail"])
    assert fake.messages[-1].source["template_variables"] == {"name": "Ann"}
    monkeypatch.setenv("MAILTRAP_FROM_EMAIL", "shop@example.com")
    assert run_block("EMAIL_HOST")["EMAIL_PORT"] == 2525
    assert len(BLOCKS) == 8  # three more are run below


def test_the_lines_that_add_to_a_message(fake):
    names = {**vars(smtp_client), "base64": base64, "mt": mt, "mail": new_mail()}
    exec("import json; pdf = b'%PDF'; png = b'PNG'; me, ann = ('', 'a@b.c'), ('', 'd@e.f')", names)
    table = README.partition("| HTML |")[2].partition("\n\n")[0]
    lines = re.findall(r"`((?:message|mail)\W[^`]*)`", table)
    assert len(lines) == 15
    for line in lines:
        exec(line, names)
    source = names["message"].as_string()
    assert "\nCc: Bob <bob@" in source
    assert '\nX-MT-Category: orders\nX-MT-Custom-Variables: {"order": "4711"}\n' in source
    kinds = re.findall(r"^Content-Type: ([\w/]+)", source, re.M)
    assert kinds[:3] == ["multipart/mixed", "multipart/alternative", "text/plain"]
    assert kinds[3:] == ["multipart/related", "text/html", "image/png", "application/pdf"]
    api_client.send(api_of(fake), names["mail"])
    [taken] = fake.messages
    assert taken.recipients == ["you@example.com", "bob@example.com", "eve@example.com"]
    assert (taken.source["category"], taken.source["html"]) == ("orders", "<b>Hello.</b>")
    assert base64.b64decode(taken.source["attachments"][0]["content"]) == b"%PDF"


def test_trying_again(folder, fake):
    deliver = run_block("from tenacity import")["deliver"]
    deliver.retry.wait = tenacity.wait_none()
    fake.reset(Fault("content", b"550 5.7.0 Too many emails per second\r\n", at=(1, 2)))
    deliver()
    assert (fake.steps["content"], len(fake.messages)) == (3, 1)
    fake.reset(Fault("content", b"", "close"))
    with pytest.raises(UNKNOWN):
        deliver()
    fake.reset(Fault("content", b"450 Later\r\n", at=range(1, 99)))
    with pytest.raises(smtplib.SMTPDataError):
        deliver()
    assert fake.steps["content"] == 4


def test_many_messages_none_twice(folder, fake, capsys):
    names = run_block("def send_many")
    people = [f"{number}@example.com" for number in range(230)]
    people[7] = "bounce+550+no+such+user@example.com"
    mails = [(one, "me@example.com", [one], names["message"]) for one in people]
    mails[8][2].append(people[7])
    refusals = Fault("content", b"450 Later\r\n", at=(60,)), Fault("MAIL", b"", "close", at=(130,))
    fake.reset(*refusals, Fault("content", b"", "reset", takes=True, at=(180,)))
    for error in (smtplib.SMTPDataError, smtplib.SMTPServerDisconnected, UNKNOWN):
        with pytest.raises(error):
            names["send_many"](mails)
    for _ in range(2):  # the second time, there is nothing left to do
        names["send_many"](mails)
        sent = [one for captured in fake.messages for one in captured.recipients]
        assert sorted(sent) == sorted(one for one in people if one != people[7])
    out = capsys.readouterr().out
    assert f"{people[7]} was refused" in out
    assert f"8@example.com was sent, but not to {{'{people[7]}'" in out
    [[unknown]] = names["ledger"].execute("SELECT id FROM mails WHERE state = 'unknown'")
    assert fake.messages[178].recipients == [unknown]
    fake.reset(Fault("content", b"", "close", takes=True))
    with pytest.raises(api_client.OutcomeUnknownError):
        names["send_once"]("x", lambda: api_client.send(api_of(fake), new_mail()))
    assert names["send_once"]("x", lambda: api_client.send(api_of(fake), new_mail())) is None
    assert len(fake.messages) == 1


def test_a_killed_run_leaves_an_unknown_mail(folder, fake):
    fake.reset(Fault("content", b"", "silence", takes=True))
    (folder / "many.py").write_text(next(it for it in BLOCKS if "def send_many" in it))
    program = "-c", f"import sys; sys.path.append({str(REPOSITORY)!r}); import many"
    python_until_sent(fake, signal.SIGKILL, *program)
    assert (python(*program).stdout, len(fake.messages)) == ("news 1, ann is unknown\n", 1)


def test_a_batch(folder, fake, capsys):
    run_block("api.batch_send")
    assert [one.recipients[0] for one in fake.messages] == ["ann@example.com", "bob@example.com"]
    no = {"success": False, "errors": ["'email' is invalid"]}
    answers = [{"success": True, "message_ids": ["1"]}, no]
    fake.reset(Fault("content", http(200, {"success": True, "responses": answers})))
    run_block("api.batch_send")
    assert capsys.readouterr().out == "bob@example.com was refused: [\"'email' is invalid\"]\n"
    for reply in (b"", http(200, {"success": True, "responses": answers[:1]}), http(503, no)):
        fake.reset(Fault("content", reply, "close"))
        with pytest.raises(api_client.OutcomeUnknownError):
            run_block("api.batch_send")
    fake.reset(Fault("content", http(401, no)))
    with pytest.raises(mt.APIError):
        run_block("api.batch_send")


def test_the_stand_in_prints_what_is_shown_runs_programs_and_names_a_missing_package(fake):
    result = python(STAND_IN)
    assert (result.returncode, result.stderr) == (0, "")
    shown = README.partition("```console\n")[2].partition("...\n```")[0]
    shown, printed = (re.sub(r"<\d[\d.]+@", "<ID@", it) for it in (shown, result.stdout))
    assert printed.startswith(shown)
    assert printed.count("Arrived over the API, in the sandbox stream:") == 1
    assert python(STAND_IN, sys.executable, "-c", "raise SystemExit(7)").returncode == 7
    assert python(STAND_IN, "no-such-command").returncode == 2
    result = python("-I", "-S", STAND_IN)
    assert result.returncode == 1
    assert re.fullmatch(".*pip install -r tests/requirements.txt\n", result.stderr)


def test_the_benchmark_prints_the_rows_that_are_shown(fake):
    result = python(STAND_IN.with_name("benchmark.py"), "--quick")
    assert (result.returncode, result.stderr) == (0, "")
    table = README.partition("| time for a message")[2].partition("\n\n")[0]
    rows = {line.split("|")[1] for line in result.stdout.splitlines()}
    assert {line.split("|")[1] for line in table.splitlines()[1:]} <= rows


def test_env_example_has_the_settings_with_their_defaults_and_a_shell_can_read_it():
    defaults = dotenv_values(REPOSITORY / ".env.example")
    tables = {**smtp_client.SETTINGS, **api_client.SETTINGS}
    assert defaults == {name: default for name, (default, *_) in tables.items()}
    for name, value in defaults.items():
        shell = [
            "sh",
            "-euc",
            f'. "$1/.env.example"; test "${name}" = "$2"',
            "-",
            REPOSITORY,
            value,
        ]
        subprocess.run(shell, check=True)
