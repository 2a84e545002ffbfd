"""Where settings come from, and what is said of those that are missing or wrong."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from conftest import INHERITED, README, REPOSITORY, SCRIPTS
from fake_mailtrap import FakeMailtrap

WRONG_INPUT, NOT_SENT = 2, 3
EXAMPLE = dotenv_values(REPOSITORY / ".env.example", interpolate=False)
LOGIN = "Sandboxes > (your sandbox) > Integration > SMTP"
PLACES = {
    "smtp_client": {"MAILTRAP_SMTP_USERNAME": LOGIN, "MAILTRAP_SMTP_PASSWORD": LOGIN},
    "api_client": {
        "MAILTRAP_API_TOKEN": "Settings > API Tokens",
        "MAILTRAP_SANDBOX_ID": "number in your sandbox's",
    },
}
both = pytest.mark.parametrize("script", SCRIPTS)


def in_folder(folder: Path, script: str, dotenv: bytes | None, *flags: str, **environ: str) -> Any:
    """Run a copy of the script, beside a .env file of its own or in an empty folder."""
    shutil.copy(REPOSITORY / f"{script}.py", folder)
    if dotenv is not None:
        (folder / ".env").write_bytes(dotenv)
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    command = [sys.executable, str(folder / f"{script}.py"), *flags]
    return subprocess.run(
        command,
        env={**inherited, "PYTHONUTF8": "1", **environ},
        capture_output=True,
        encoding="utf-8",
        cwd=folder.parent,
    )


@both
def test_what_is_missing_is_listed_with_its_place_in_mailtrap(script, tmp_path):
    for dotenv in (None, (REPOSITORY / ".env.example").read_bytes()):
        result = in_folder(tmp_path, script, dotenv)
        *lines, advice = result.stderr.removeprefix(f"{script}: ").splitlines()
        assert (result.returncode, result.stdout) == (WRONG_INPUT, "")
        for line, (name, place) in zip(lines, PLACES[script].items(), strict=True):
            assert line.startswith(f"{name} is missing. ")
            assert place in line
        assert ".env.example" in advice
        assert "cp " not in advice, "it would overwrite a .env"


def test_the_example_shows_every_setting_with_its_default(call, fake):
    table = README.partition("## Settings and flags")[2].partition("\n## ")[0]
    assert set(EXAMPLE) == set(re.findall(r"MAILTRAP_\w+", table))
    assert not any(EXAMPLE[name] for names in PLACES.values() for name in names)
    for script in SCRIPTS:
        subject = ("--dry-run", "--subject", "x", "--text", "x")
        with_defaults = call(script, *subject, **dict.fromkeys(EXAMPLE, ""))
        as_in_the_example = call(script, *subject, **{k: v or "" for k, v in EXAMPLE.items()})
        assert with_defaults.stdout == as_in_the_example.stdout


@both
def test_dotenv_is_read_literally_and_stripped(script, tmp_path, fake):
    strange = FakeMailtrap()
    strange.password = strange.token = "p${HOME}w\\x'#1"
    with strange:
        values = {"MAILTRAP_FROM_EMAIL": "  Jörg <j@example.com>  ", **strange.settings}
        lines = [f"{name} = {value}" for name, value in values.items()]
        dotenv = "\ufeff" + "\n".join(lines)
        result = in_folder(tmp_path, script, dotenv.encode(), **strange.environment)
    assert result.returncode == 0
    assert [captured.sender for captured in strange.messages] == ["j@example.com"]


@both
def test_spaces_around_a_setting_in_the_environment_do_not_matter(script, call, fake):
    spaced = {name: f" {value}\n" for name, value in fake.settings.items()}
    assert call(script, **spaced).returncode == 0


@both
def test_flags_beat_the_environment_which_beats_dotenv(script, tmp_path, fake):
    environ = {**fake.environment, **fake.settings, "MAILTRAP_TO_EMAIL": "you@example.com"}
    dotenv = b"MAILTRAP_TO_EMAIL=dotenv@example.com\nMAILTRAP_FROM_EMAIL=dotenv@example.com"
    in_folder(tmp_path, script, dotenv, **environ)
    in_folder(tmp_path, script, dotenv, "--to", "flag@e.com", "--from", "me@e.com", **environ)
    first, second = fake.messages
    assert (first.sender, first.recipients) == ("dotenv@example.com", ["you@example.com"])
    assert (second.sender, second.recipients) == ("me@e.com", ["flag@e.com"])


@both
def test_a_dotenv_in_a_folder_above_is_not_read(script, tmp_path):
    (tmp_path / ".env").write_text("MAILTRAP_FROM_EMAIL=planted@example.com\n")
    (tmp_path / "project").mkdir()
    result = in_folder(tmp_path / "project", script, None, "--dry-run")
    assert (result.returncode, "planted" in result.stdout) == (0, False)


@both
def test_several_recipients_are_told_apart_by_commas(script, call, fake):
    several = "ann@example.com, bob@example.com ,Cy <cy@example.com>"
    assert call(script, MAILTRAP_TO_EMAIL=several).returncode == 0
    assert fake.messages[0].recipients == ["ann@example.com", "bob@example.com", "cy@example.com"]


def test_live_streams_need_no_sandbox_id(call):
    assert call("api_client", MAILTRAP_STREAM="bulk", MAILTRAP_SANDBOX_ID="").returncode == 0
    assert call("api_client", MAILTRAP_STREAM="bulk", MAILTRAP_SANDBOX_ID="x").returncode == 0
    assert call("api_client", MAILTRAP_STREAM="sandbox", MAILTRAP_SANDBOX_ID="").returncode == 2


PORT = "MAILTRAP_SMTP_PORT must be a number from 1 to 65535, not "
# script, setting, value, what is said of it
WRONG_SETTINGS = [
    ("smtp_client", "MAILTRAP_SMTP_PORT", "abc", f"{PORT}'abc'"),
    ("smtp_client", "MAILTRAP_SMTP_PORT", "0", f"{PORT}'0'"),
    ("smtp_client", "MAILTRAP_SMTP_PORT", "65536", f"{PORT}'65536'"),
    ("smtp_client", "MAILTRAP_SMTP_PORT", "-1", f"{PORT}'-1'"),
    ("smtp_client", "MAILTRAP_SMTP_PORT", "²", f"{PORT}'²'"),
    ("smtp_client", "MAILTRAP_SMTP_USERNAME", "“canary”", "MAILTRAP_SMTP_USERNAME holds a"),
    ("smtp_client", "MAILTRAP_SMTP_PASSWORD", "canaryü", "MAILTRAP_SMTP_PASSWORD holds a"),
    ("api_client", "MAILTRAP_API_TOKEN", "canary b", "the API token is empty, or has a space"),
    ("api_client", "MAILTRAP_API_TOKEN", "canary\nb", "the API token is empty, or has a space"),
    ("api_client", "MAILTRAP_API_TOKEN", "canaryü", "or a character that is not ASCII"),
    ("api_client", "MAILTRAP_STREAM", "live", "sandbox, transactional, bulk, not 'live'"),
    ("api_client", "MAILTRAP_SANDBOX_ID", "12/../x?y", "MAILTRAP_SANDBOX_ID must be a number"),
    ("api_client", "MAILTRAP_SANDBOX_ID", "\u0664\u0662", "MAILTRAP_SANDBOX_ID must be a number"),
    ("smtp_client", "MAILTRAP_FROM_EMAIL", "bogus", "MAILTRAP_FROM_EMAIL: not an email address"),
    ("api_client", "MAILTRAP_FROM_EMAIL", "bogus", "MAILTRAP_FROM_EMAIL: not an email address"),
    ("smtp_client", "MAILTRAP_TO_EMAIL", "a@b.c, x y", "not an email address: 'x y'"),
    ("api_client", "MAILTRAP_TO_EMAIL", "a@b.c,", "not an email address: ''"),
]


@pytest.mark.parametrize(("script", "name", "value", "words"), WRONG_SETTINGS)
def test_a_wrong_setting_is_told_with_its_value(script, name, value, words, call, fake):
    result = call(script, **{name: value})
    happened, advice = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (WRONG_INPUT, "")
    assert (fake.messages, fake.requests, fake.logins) == ([], [], [])
    assert words in happened
    assert "canary" not in happened
    assert ".env" in advice


def test_a_host_that_cannot_be_one_is_told(call):
    for host in ("a..b", "https://sandbox.smtp.mailtrap.io.invalid"):
        result = call("smtp_client", MAILTRAP_SMTP_HOST=host)
        assert result.returncode == NOT_SENT
        assert "Check MAILTRAP_SMTP_HOST" in result.stderr.splitlines()[2]


NEEDS = "a message needs a recipient, a subject, and text or HTML"
# flags, what is said of them
WRONG_FLAGS = [
    (["--to", ""], "--to or MAILTRAP_TO_EMAIL: not an email address: ''"),
    (["--to", "a@e.com, b@e.com"], "not an email address: 'a@e.com, b@e.com'"),
    (["--from", ""], "--from or MAILTRAP_FROM_EMAIL: not an email address: ''"),
    (["--subject", ""], NEEDS),
    (["--subject", "   "], NEEDS),
    (["--text", ""], NEEDS),
    (["--subject", "a\nBcc: evil@example.com"], "line"),
    (["--attach", "missing.pdf"], "No such file or directory: 'missing.pdf'"),
    (["--attach", "."], ": '.'"),
]


@both
@pytest.mark.parametrize(("flags", "words"), WRONG_FLAGS)
def test_a_wrong_flag_is_told_in_two_lines(script, flags, words, call, fake):
    result = call(script, *flags)
    happened, advice = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (WRONG_INPUT, "")
    assert (fake.messages, fake.requests, fake.logins) == ([], [], [])
    assert words in happened
    assert advice.startswith("Nothing was sent.")


@both
def test_a_flag_that_is_not_there_has_the_same_status(script, call):
    assert call(script, "--nonsense").returncode == WRONG_INPUT


@both
@pytest.mark.parametrize("dotenv", [b"\xff\xfeM\0A\0", b"MAILTRAP_A\0B=c\0d"])
def test_a_dotenv_that_is_no_text_is_told(script, dotenv, tmp_path):
    result = in_folder(tmp_path, script, dotenv)
    happened, _ = result.stderr.splitlines()
    assert result.returncode == WRONG_INPUT
    assert "the file .env must be text in UTF-8" in happened


@both
def test_help_keeps_its_lines_and_describes_every_flag(script, run):
    text = run(script, "--help").stdout
    assert f"\n    python {script}.py --to you@example.com\n" in text
    for status in ("0  accepted", "1  unknown", "2  not sent", "3  not sent"):
        assert f"\n    {status}" in text
    for name in EXAMPLE:
        assert (name in text) == (name in (REPOSITORY / f"{script}.py").read_text("utf-8"))
    described = re.findall(r"\n  (--[a-z-]+)( [A-Z]+)?  +\S", text)
    assert dict(described) == {
        "--from": " ADDRESS",
        "--to": " ADDRESS",
        "--subject": " TEXT",
        "--text": " TEXT",
        "--html": " HTML",
        "--attach": " FILE",
        "--dry-run": "",
        "--verbose": "",
    }


# Without their packages


@both
def test_without_its_packages_a_script_says_what_to_run(script):
    """-S leaves out what is installed."""
    program = [sys.executable, "-S", str(REPOSITORY / f"{script}.py")]
    result = subprocess.run(program, capture_output=True, text=True)
    happened, what_to_do = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (WRONG_INPUT, "")
    assert happened.startswith(f"{script}: No module named ")
    assert "pip install -r requirements.txt" in what_to_do
    assert f"uv run {script}.py" in what_to_do


def test_what_is_copied_needs_the_standard_library_alone_or_the_sdk():
    program = "import sys; sys.modules['dotenv'] = None; import smtp_client, api_client"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)
    bare = [sys.executable, "-S", "-c", "import smtp_client"]
    subprocess.run(bare, cwd=REPOSITORY, check=True)
    bare[-1] = "import api_client"
    result = subprocess.run(bare, cwd=REPOSITORY, capture_output=True, text=True)
    assert "ModuleNotFoundError: No module named 'mailtrap'" in result.stderr
