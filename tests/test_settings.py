"""Settings, flags and files that are missing or wrong: one clear report, the right status, nothing sent."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

import api_client
import smtp_client
from conftest import REPOSITORY, SCRIPTS, Run
from fake_mailtrap import FakeMailtrap

EXAMPLE = dotenv_values(REPOSITORY / ".env.example")
NEEDED = {
    "smtp_client": [
        "MAILTRAP_SMTP_USERNAME",
        "MAILTRAP_SMTP_PASSWORD",
        "MAILTRAP_FROM_EMAIL",
        "MAILTRAP_TO_EMAIL",
    ],
    "api_client": ["MAILTRAP_API_TOKEN", "MAILTRAP_SANDBOX_ID", "MAILTRAP_FROM_EMAIL", "MAILTRAP_TO_EMAIL"],
}
ENVIRON = {
    "MAILTRAP_SMTP_USERNAME": "user",
    "MAILTRAP_SMTP_PASSWORD": "password",
    "MAILTRAP_API_TOKEN": "token",
    "MAILTRAP_SANDBOX_ID": "1",
    "MAILTRAP_FROM_EMAIL": "me@example.com",
    "MAILTRAP_TO_EMAIL": "you@example.com",
}
READ = {"smtp_client": smtp_client.read_settings, "api_client": api_client.read_settings}


def in_folder(folder: Path, script: str, dotenv: bytes, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script beside a .env file of its own."""
    shutil.copy(REPOSITORY / f"{script}.py", folder)
    (folder / ".env").write_bytes(dotenv)
    return subprocess.run(
        [sys.executable, str(folder / f"{script}.py")],
        env={"PATH": os.environ["PATH"], "SYSTEMROOT": os.environ.get("SYSTEMROOT", ""), **environ},
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=folder.parent,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_example_names_every_setting_that_a_script_reads(script: str) -> None:
    read = set(re.findall("MAILTRAP_[A-Z_]+[A-Z]", (REPOSITORY / f"{script}.py").read_text("utf-8")))
    assert set(READ[script](ENVIRON)) == read
    assert read <= set(EXAMPLE)


def test_the_example_names_no_setting_that_no_script_reads() -> None:
    assert set(EXAMPLE) == set(smtp_client.read_settings(ENVIRON)) | set(api_client.read_settings(ENVIRON))


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_example_shows_the_defaults(script: str) -> None:
    given = {name: value for name, value in READ[script](ENVIRON).items() if name not in ENVIRON}
    assert given == {name: EXAMPLE[name] for name in given}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_blank_copy_of_the_example_lists_all_that_is_missing_and_where_it_is(script: str, tmp_path: Path) -> None:
    result = in_folder(tmp_path, script, (REPOSITORY / ".env.example").read_bytes())
    lines = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (78, "")
    assert lines[0] == f"{script}: settings are missing or invalid"
    assert [line.split()[0] for line in lines[1:-1]] == NEEDED[script]
    assert all(" is missing: " in line for line in lines[1:-1])
    assert ".env" in lines[-1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_settings_are_read_from_dotenv_literally_and_stripped(script: str, tmp_path: Path, fake: FakeMailtrap) -> None:
    fake.password = fake.token = "p${HOME}w\\x'#1"
    values = {**fake.settings, "PYTHON_DOTENV_DISABLED": "0", "MAILTRAP_FROM_EMAIL": "  Jörg <j@example.com>  "}
    dotenv = "\n".join(f"{name} = {value}" for name, value in values.items())
    result = in_folder(tmp_path, script, dotenv.encode())
    assert result.returncode == 0, result.stderr
    assert [captured.sender for captured in fake.messages] == ["j@example.com"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_environment_beats_dotenv(script: str, tmp_path: Path, fake: FakeMailtrap) -> None:
    environ = {**fake.settings, "PYTHON_DOTENV_DISABLED": "0"}
    assert in_folder(tmp_path, script, b"MAILTRAP_TO_EMAIL=other@example.com", **environ).returncode == 0
    assert fake.messages[0].recipients == ["you@example.com"]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("dotenv", "says"),
    [(b"MAILTRAP_FROM_EMAIL=\xff\xfe", ".env is not UTF-8: "), (b'MAILTRAP_FROM_EMAIL="a\0b"', "null byte")],
)
def test_a_dotenv_that_cannot_be_read_is_named(
    script: str, dotenv: bytes, says: str, tmp_path: Path, fake: FakeMailtrap
) -> None:
    result = in_folder(tmp_path, script, dotenv, PYTHON_DOTENV_DISABLED="0")
    assert (result.returncode, fake.messages) == (78, [])
    happened, advice = result.stderr.splitlines()
    assert says in happened
    assert ".env" in advice


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_asks_only_for_what_it_needs(script: str) -> None:
    needed = {name: ENVIRON[name] for name in NEEDED[script]}
    assert {name: value for name, value in READ[script](needed).items() if name in needed} == needed
    for name in needed:
        with pytest.raises(ValueError, match=f"\n{name} is missing: [^\n]*$"):
            READ[script]({**needed, name: "  "})


def test_live_streams_need_no_sandbox_id() -> None:
    for stream in ("transactional", "bulk"):
        api_client.read_settings({**ENVIRON, "MAILTRAP_STREAM": stream, "MAILTRAP_SANDBOX_ID": ""})


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"])
def test_a_loopback_host_needs_no_credentials(host: str) -> None:
    environ = {**ENVIRON, "MAILTRAP_SMTP_USERNAME": "", "MAILTRAP_SMTP_PASSWORD": "", "MAILTRAP_SMTP_HOST": host}
    assert smtp_client.read_settings(environ)["MAILTRAP_SMTP_HOST"] == host


@pytest.mark.parametrize("host", ["127.0.0.1.example.com", "127.evil.example", "localhost.example.com", "10.0.0.1"])
def test_no_other_host_does_without_credentials(host: str) -> None:
    environ = {**ENVIRON, "MAILTRAP_SMTP_USERNAME": "", "MAILTRAP_SMTP_PASSWORD": "", "MAILTRAP_SMTP_HOST": host}
    with pytest.raises(ValueError, match=r"USERNAME is missing.*\n.*PASSWORD is missing"):
        smtp_client.read_settings(environ)


NOT_ADDRESSES = [
    "you",
    "you@",
    "@example.com",
    "a b@example.com",
    "ü@example.com",
    "u@bücher.example",
    "<>",
    "a@b@c.de",
]
NOT_ADDRESSES += ["Jane Doe, Esq <j@example.com>", "A <a@example.com", "a@example.com\nBcc: b@example.com"]
NOT_ADDRESSES += ["=?utf-8?q?J=C3=B6rg?= <j@example.com>", "A\u2028B <a@example.com>", ".a@example.com"]
NOT_ADDRESSES += ["a..b@example.com", "a@example..com"]
INVALID = [
    ("smtp_client", "MAILTRAP_SMTP_HOST", ["http://example.com", "a b", "a/b", "x" * 254, "bücher.example"]),
    ("smtp_client", "MAILTRAP_SMTP_PORT", ["x", "0", "65536", "99999", "-1", "25.0", "+25", "9" * 10000]),
    ("smtp_client", "MAILTRAP_SMTP_USERNAME", ["a\nb", "a\0b", "ü"]),
    ("smtp_client", "MAILTRAP_SMTP_PASSWORD", ["canary\r\nb", "canary\tb", "canaryü", "canary\udcff"]),
    ("api_client", "MAILTRAP_API_TOKEN", ["canary\nb", "canary b", "canaryü"]),
    ("api_client", "MAILTRAP_STREAM", ["live", "SANDBOX", "sandbox,bulk"]),
    ("api_client", "MAILTRAP_SANDBOX_ID", ["x", "1/../2", "-1", "1.0", "?"]),
    ("smtp_client", "MAILTRAP_FROM_EMAIL", NOT_ADDRESSES),
    ("api_client", "MAILTRAP_FROM_EMAIL", NOT_ADDRESSES),
    ("smtp_client", "MAILTRAP_TO_EMAIL", NOT_ADDRESSES),
    ("api_client", "MAILTRAP_TO_EMAIL", NOT_ADDRESSES),
]


@pytest.mark.parametrize(
    ("script", "name", "value"), [(script, name, value) for script, name, values in INVALID for value in values]
)
def test_an_invalid_setting_is_named(script: str, name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"\n{name} is invalid[^\n]*: [^\n]*$") as caught:
        READ[script]({**ENVIRON, name: value})
    assert "canary" not in str(caught.value)


VALID = [
    "a@example.com",
    "<a@example.com>",
    "Jane <a@example.com>",
    "Jane<a@example.com>",
    '"Doe, Jane" <a@example.com>',
    "J. Doe (Sales) <a@example.com>",
    "O'Neil & Söhne: 你好 <a@example.com>",
    "first.last+tag@sub.example.co.uk",
    "root@localhost",
]


@pytest.mark.parametrize("value", VALID)
def test_an_address_may_be_spelled_in_all_usual_ways(value: str) -> None:
    for read in READ.values():
        settings = read({**ENVIRON, "MAILTRAP_FROM_EMAIL": value, "MAILTRAP_TO_EMAIL": f"{value}, b@example.com"})
        assert settings["MAILTRAP_FROM_EMAIL"] == value


@pytest.mark.parametrize("value", VALID)
def test_each_spelling_reaches_both_messages_alike(value: str, call: Run, fake: FakeMailtrap) -> None:
    for script in SCRIPTS:
        assert call(script, MAILTRAP_TO_EMAIL=f"{value},b@example.com , {value}").returncode == 0
    over_smtp, over_api = ([str(one) for one in captured.message["To"].addresses] for captured in fake.messages)
    assert over_smtp == over_api
    assert len(over_smtp) == 3


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_is_wrong_is_said_at_once(script: str, call: Run, fake: FakeMailtrap) -> None:
    wrong = {name: "" if name.endswith(("USERNAME", "TOKEN")) else "\u2028" for name in NEEDED[script]}
    result = call(script, **wrong, MAILTRAP_SMTP_HOST="example.com", MAILTRAP_SMTP_PORT="http")
    lines = result.stderr.splitlines()
    assert result.returncode == 78
    assert {line.split()[0] for line in lines[1:-1]} >= set(NEEDED[script])
    assert fake.messages == []


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "flags",
    [
        ["--subject", "a\nBcc: evil@example.com"],
        ["--subject", ""],
        ["--subject", "=?utf-8?q?Hi?="],
        ["--text", ""],
        ["--text", "\udcff"],
        ["--attach", "missing.pdf"],
        ["--attach", "."],
        ["--attach", ""],
    ],
)
def test_a_wrong_flag_has_status_2_and_one_clear_line(
    script: str, flags: list[str], call: Run, fake: FakeMailtrap
) -> None:
    result = call(script, *flags)
    assert (result.returncode, result.stdout, fake.messages, fake.requests) == (2, "", [], [])
    assert script in result.stderr
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_flag_has_status_2(script: str, run: Run, fake: FakeMailtrap) -> None:
    result = run(script, "--nonsense")
    assert (result.returncode, result.stdout, fake.messages) == (2, "", [])
    assert f"{script}.py: error: unrecognized arguments: --nonsense" in result.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ["--template", "no-uuid"],
        ["--var", "a=b"],
        ["--template", "2f45b0aa-bbed-432f-95e4-e145e1965ba2", "--var", "novalue"],
        ["--template", "2f45b0aa-bbed-432f-95e4-e145e1965ba2", "--subject", "x"],
        ["--template", "2f45b0aa-bbed-432f-95e4-e145e1965ba2", "--html", "x"],
    ],
)
def test_a_template_flag_that_makes_no_sense_is_refused(flags: list[str], call: Run, fake: FakeMailtrap) -> None:
    result = call("api_client", *flags)
    assert (result.returncode, fake.requests) == (2, [])
    assert "error: " in result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_address_or_stream_by_flag_is_reported_like_the_setting(script: str, call: Run) -> None:
    result = call(script, "--to", "nobody")
    assert result.returncode == 78
    assert "MAILTRAP_TO_EMAIL is invalid" in result.stderr
    if script == "api_client":
        assert call(script, "--stream", "live").returncode == 78


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_empty_or_unreadable_attachment_is_refused(
    script: str, tmp_path: Path, call: Run, fake: FakeMailtrap
) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    result = call(script, "--attach", str(empty))
    assert (result.returncode, fake.messages) == (2, [])
    assert "empty attachment: 'empty.txt'" in result.stderr


def test_inline_metadata_and_requirements_agree() -> None:
    requirements = (REPOSITORY / "requirements.txt").read_text().split()
    named = []
    for script in SCRIPTS:
        source = (REPOSITORY / f"{script}.py").read_text("utf-8")
        block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///\n", source, re.MULTILINE)
        assert block
        assert '# requires-python = ">=3.10"\n' in block[1]
        named.append(re.findall(r'"([a-z-]+[<>=][^"]*)"', block[1].split("dependencies", 1)[1]))
    assert named == [["python-dotenv>=1.2,<2"], requirements]


def test_a_netrc_file_does_not_replace_the_token(run: Run, fake: FakeMailtrap, tmp_path: Path) -> None:
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("default login somebody password else\n")
        (tmp_path / name).chmod(0o600)
    result = run("api_client", HOME=str(tmp_path), USERPROFILE=str(tmp_path))
    assert result.returncode == 0, result.stderr


HINT = 'like you@example.com or "Name, if you like" <you@example.com>'
LOGIN = "Sandboxes > your sandbox > Integration > SMTP, in Mailtrap"
MISSING = {
    "smtp_client": f"""\
smtp_client: settings are missing or invalid
MAILTRAP_SMTP_USERNAME is missing: {LOGIN}
MAILTRAP_SMTP_PASSWORD is missing: {LOGIN}
MAILTRAP_FROM_EMAIL is missing: {HINT}
MAILTRAP_TO_EMAIL is missing: {HINT}, or several with commas between
Set them in .env, a copy of .env.example, or in the environment; without an account, see README.md.
""",
    "api_client": f"""\
api_client: settings are missing or invalid
MAILTRAP_API_TOKEN is missing: Settings > API Tokens, in Mailtrap
MAILTRAP_SANDBOX_ID is missing: the number in the address of your sandbox's page
MAILTRAP_FROM_EMAIL is missing: {HINT}
MAILTRAP_TO_EMAIL is missing: {HINT}, or several with commas between
Set them in .env, a copy of .env.example, or in the environment; without an account, see README.md.
""",
}
INVALID = {
    "smtp_client": """\
smtp_client: settings are missing or invalid
MAILTRAP_SMTP_HOST is invalid: a host name
MAILTRAP_SMTP_PORT is invalid: a number from 1 to 65535
Set them in .env, a copy of .env.example, or in the environment; without an account, see README.md.
""",
    "api_client": """\
api_client: settings are missing or invalid
MAILTRAP_STREAM is invalid: sandbox, transactional or bulk
Set them in .env, a copy of .env.example, or in the environment; without an account, see README.md.
""",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_is_missing_is_listed(script: str, call: Run, fake: FakeMailtrap) -> None:
    result = call(script, **dict.fromkeys((name for name in fake.settings if name.startswith("MAILTRAP_")), ""))
    assert (result.returncode, result.stdout, result.stderr) == (78, "", MISSING[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_that_is_invalid_is_listed(script: str, call: Run) -> None:
    result = call(script, MAILTRAP_SMTP_HOST="a b", MAILTRAP_SMTP_PORT="0", MAILTRAP_STREAM="live")
    assert (result.returncode, result.stdout, result.stderr) == (78, "", INVALID[script])


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_invalid_address_is_shown_a_secret_is_not(script: str, call: Run) -> None:
    result = call(script, MAILTRAP_FROM_EMAIL="x" * 100, MAILTRAP_TO_EMAIL="=?utf-8?B?aGk=?= <a@example.com>")
    assert result.stderr.splitlines()[1:3] == [
        f"MAILTRAP_FROM_EMAIL is invalid ({'x' * 80!r}): {HINT}",
        f"MAILTRAP_TO_EMAIL is invalid ('=?utf-8?B?aGk=?= <a@example.com>'): {HINT}, or several with commas between",
    ]
    for secret in ("MAILTRAP_SMTP_PASSWORD", "MAILTRAP_API_TOKEN"):
        result = call(script, **{secret: "canary\ncanary"})
        assert "canary" not in result.stdout + result.stderr
