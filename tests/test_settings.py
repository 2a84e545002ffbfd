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

both = pytest.mark.parametrize("script", SCRIPTS)
EXAMPLE = dotenv_values(REPOSITORY / ".env.example", interpolate=False)
LOGIN = "Sandboxes > (your sandbox) > Integration > SMTP"
MISSING = {
    "smtp_client": {"MAILTRAP_SMTP_USERNAME": LOGIN, "MAILTRAP_SMTP_PASSWORD": LOGIN},
    "api_client": {
        "MAILTRAP_API_TOKEN": "Settings > API Tokens",
        "MAILTRAP_SANDBOX_ID": "the number in your sandbox's address",
    },
}


def in_folder(folder: Path, script: str, dotenv: bytes | None, *flags: str, **environ: str) -> Any:
    """Run a copy of the script, beside a .env file of its own or in an empty folder."""
    shutil.copy(REPOSITORY / f"{script}.py", folder)
    if dotenv is not None:
        (folder / ".env").write_bytes(dotenv)
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    command = [sys.executable, str(folder / f"{script}.py"), *flags]
    environ = {**inherited, "PYTHONUTF8": "1", **environ}
    return subprocess.run(
        command, env=environ, capture_output=True, encoding="utf-8", cwd=folder.parent
    )


@both
def test_what_is_missing_is_listed_with_its_place_in_mailtrap(script, tmp_path):
    fresh = (REPOSITORY / ".env.example").read_bytes()
    for dotenv in (None, fresh):
        result = in_folder(tmp_path, script, dotenv)
        *lines, advice = result.stderr.removeprefix(f"{script}: ").splitlines()
        assert (result.returncode, result.stdout) == (78, "")
        assert lines == [f"{name} is missing: {place}" for name, place in MISSING[script].items()]
        assert ".env.example" in advice


@both
def test_an_empty_folder_is_enough_for_a_dry_run(script, tmp_path):
    result = in_folder(tmp_path, script, None, "--dry-run")
    assert result.returncode == 0
    assert "nobody receives it" in result.stderr
    assert "you@example.com" in result.stdout
    assert "Mailtrap Test" in result.stdout


def test_the_example_shows_every_setting_with_its_default(call, fake):
    table = README.partition("## Settings and flags")[2].partition("## Tests")[0]
    assert set(EXAMPLE) == set(re.findall(r"MAILTRAP_\w+", table))
    needed = {name: EXAMPLE[name] for names in MISSING.values() for name in names}
    assert not any(needed.values())
    blank = dict.fromkeys(EXAMPLE, "")
    for script in SCRIPTS:
        with_defaults = call(script, "--dry-run", **blank)
        as_in_the_example = call(script, "--dry-run", **{k: v or "" for k, v in EXAMPLE.items()})
        assert with_defaults.stderr == as_in_the_example.stderr
        assert EXAMPLE["MAILTRAP_TO_EMAIL"] in with_defaults.stdout


@both
def test_dotenv_is_read_literally_and_stripped(script, tmp_path, fake):
    strange = FakeMailtrap()
    strange.password = strange.token = "p${HOME}w\\x'#1"
    with strange:
        values = {**strange.settings, "MAILTRAP_FROM_EMAIL": "  Jörg <j@example.com>  "}
        del values["PYTHON_DOTENV_DISABLED"]
        dotenv = "\n".join(f"{name} = {value}" for name, value in values.items())
        result = in_folder(tmp_path, script, dotenv.encode())
    assert (result.returncode, result.stderr) == (0, "")
    assert [captured.sender for captured in strange.messages] == ["j@example.com"]


@both
def test_flags_beat_the_environment_which_beats_dotenv(script, tmp_path, fake):
    environ = {**fake.settings, "PYTHON_DOTENV_DISABLED": "0"}
    environ["MAILTRAP_TO_EMAIL"] = "you@example.com"
    dotenv = b"MAILTRAP_TO_EMAIL=dotenv@example.com\nMAILTRAP_FROM_EMAIL=dotenv@example.com"
    assert in_folder(tmp_path, script, dotenv, **environ).returncode == 0
    assert in_folder(
        tmp_path, script, dotenv, "--to", "flag@e.com", "--from", "me@e.com", **environ
    )
    first, second = fake.messages
    assert (first.sender, first.recipients) == ("dotenv@example.com", ["you@example.com"])
    assert (second.sender, second.recipients) == ("me@e.com", ["flag@e.com"])


@both
def test_several_recipients_are_told_apart_by_commas(script, call, fake):
    several = '"Doe, Ann" <ann@example.com>, bob@example.com ,Cy <cy@example.com>,'
    assert call(script, MAILTRAP_TO_EMAIL=several).returncode == 0
    assert fake.messages[0].recipients == ["ann@example.com", "bob@example.com", "cy@example.com"]


# script, setting, value, what is said of it
WRONG_SETTINGS = [
    *(
        (
            "smtp_client",
            "MAILTRAP_SMTP_PORT",
            value,
            f": MAILTRAP_SMTP_PORT must be a number from 1 to 65535, not {value!r}",
        )
        for value in ("abc", "0", "65536", "-1", "25.0")
    ),
    ("smtp_client", "MAILTRAP_SMTP_PASSWORD", "canaryü", "must be ASCII"),
    ("api_client", "MAILTRAP_API_TOKEN", "canary b", "a space, a line break"),
    ("api_client", "MAILTRAP_API_TOKEN", "canary\nb", "a space, a line break"),
    ("api_client", "MAILTRAP_API_TOKEN", "canaryü", "non-ASCII"),
    ("api_client", "MAILTRAP_STREAM", "live", "sandbox, transactional, bulk, not 'live'"),
    *(
        (script, "MAILTRAP_FROM_EMAIL", "bogus", "not an email address: 'bogus'")
        for script in SCRIPTS
    ),
    *(
        (script, "MAILTRAP_TO_EMAIL", "a@b.c, x y", "not an email address: ' x y'")
        for script in SCRIPTS
    ),
]


@pytest.mark.parametrize(("script", "name", "value", "words"), WRONG_SETTINGS)
def test_a_wrong_setting_is_told_with_its_value(script, name, value, words, call, fake):
    result = call(script, **{name: value})
    happened, advice = result.stderr.splitlines()
    assert (result.returncode, result.stdout, fake.messages, fake.requests) == (78, "", [], [])
    assert words in happened
    assert "canary" not in happened
    assert ".env" in advice
    if name.endswith("_EMAIL"):
        assert f"--{name.split('_')[1].lower()}" in advice
        assert name.removeprefix("MAILTRAP") in advice


# flags, exit status, what is said of them
WRONG_FLAGS = [
    (["--to", ""], 78, "not an email address: ''"),
    (["--to", "a@e.com, b@e.com"], 78, "not an email address: 'a@e.com, b@e.com'"),
    (["--from", ""], 78, "not an email address: ''"),
    (["--subject", ""], 78, "a message needs a recipient, a subject, and text or HTML"),
    (["--text", ""], 78, "a message needs a recipient, a subject, and text or HTML"),
    (["--subject", "a\nBcc: evil@example.com"], 78, "line"),
    (["--attach", "missing.pdf"], 66, "No such file or directory: 'missing.pdf'\n"),
    (["--attach", "."], 66, ": '.'"),
    (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
]


@both
@pytest.mark.parametrize(("flags", "status", "words"), WRONG_FLAGS)
def test_a_wrong_flag_is_told_in_two_lines(script, flags, status, words, call, fake):
    result = call(script, *flags)
    assert (result.returncode, result.stdout, fake.messages, fake.requests) == (status, "", [], [])
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 2 or status == 2


UUID = "2f45b0aa-bbed-432f-95e4-e145e1965ba2"
WRONG_TEMPLATES = [
    (["--template", "no-uuid"], "--template: invalid UUID value: 'no-uuid'"),
    (["--var", "a=b"], "--var takes NAME=VALUE, and needs --template"),
    (["--template", UUID, "--var", "novalue"], "--var takes NAME=VALUE, and needs --template"),
    (["--template", UUID, "--subject", "x"], "--template brings its own subject, text and HTML"),
    (["--template", UUID, "--text", ""], "--template brings its own subject, text and HTML"),
    (["--template", UUID, "--html", "x"], "--template brings its own subject, text and HTML"),
    (["--stream", "live"], "--stream: invalid choice: 'live'"),
]


@pytest.mark.parametrize(("flags", "words"), WRONG_TEMPLATES)
def test_flags_that_go_ill_together_are_refused(flags, words, call, fake):
    result = call("api_client", *flags)
    assert (result.returncode, fake.requests) == (2, [])
    assert f"error: {words}" in result.stderr or f"error: argument {words}" in result.stderr


@both
def test_a_dotenv_that_is_no_text_is_told(script, tmp_path):
    result = in_folder(tmp_path, script, b"\xff\xfeM\0A\0")
    assert (result.returncode, len(result.stderr.splitlines())) == (78, 2)
    assert ".env" in result.stderr


def test_live_streams_need_no_sandbox_id(call):
    assert call("api_client", "--stream", "bulk", MAILTRAP_SANDBOX_ID="").returncode == 0
    assert call("api_client", MAILTRAP_SANDBOX_ID="").returncode == 78


@both
def test_help_names_settings_an_example_and_the_exit_statuses(script, run):
    text = " ".join(run(script, "--help").stdout.split())
    for words in (".env.example", f"python {script}.py --to", "65 refused", "130 interrupted"):
        assert words in text
