"""The README is true: its outputs, code, tables and links."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import api_client
import smtp_client
from conftest import REPOSITORY, SCRIPTS, Run
from fake_mailtrap import FakeMailtrap

README = (REPOSITORY / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def table(heading: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first heading is this, by their first cell."""
    [rows] = re.findall(rf"^ *\| {heading} \|.*\n *\|[-|]+\|\n((?: *\|.*\n)+)", README, re.MULTILINE)
    cells = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in rows.splitlines()]
    return {row[0]: row[1:] for row in cells}


def timeless(output: str) -> str:
    """Return the output without what differs from run to run."""
    output = re.sub(r"<\d[\d.]+@", "<ID@", output)
    output = re.sub(r"in \d+\.\d s", "in N s", output)
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "NOW", output)
    return re.sub(r"(Message id +)\d+", r"\1ID", output)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_output_of_a_success_is_as_printed(script: str, call: Run, smtp_names: None) -> None:
    result = call(script, MAILTRAP_SMTP_HOST="sandbox.smtp.mailtrap.io", MAILTRAP_SMTP_PORT="2525")
    assert timeless(f"$ python {script}.py\n{result.stdout}") in [timeless(block) for block in blocks("console")]
    assert float(re.findall(r" in ([\d.]+) s\n", result.stdout)[0]) < 60


def test_the_output_of_a_failure_is_as_printed(call: Run, smtp_names: None) -> None:
    result = call(
        "smtp_client",
        MAILTRAP_SMTP_HOST="sandbox.smtp.mailtrap.io",
        MAILTRAP_SMTP_PORT="2525",
        MAILTRAP_SMTP_PASSWORD="wrong",
    )
    assert f"$ python smtp_client.py\n{result.stderr}" in blocks("console")
    assert (result.returncode, result.stdout) == (77, "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_missing_is_listed_as_printed(script: str, call: Run, fake: FakeMailtrap) -> None:
    result = call(script, **dict.fromkeys((name for name in fake.settings if name.startswith("MAILTRAP_")), ""))
    assert f"$ python {script}.py\n{result.stderr}" in blocks("console")
    assert (result.returncode, result.stdout) == (78, "")


def test_the_code_runs_as_printed(
    call: Run, fake: FakeMailtrap, smtp_names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("api_client", "--dry-run")  # sets the environment
    (tmp_path / "invoice.pdf").write_bytes(b"%PDF")
    monkeypatch.chdir(tmp_path)
    given = {"username": fake.username, "password": fake.password, "token": fake.token, "sandbox_id": fake.sandbox_id}
    for number, code in enumerate(blocks("python")):
        (tmp_path / f"block{number}.py").write_text(code, "utf-8")
        result = runpy.run_path(str(tmp_path / f"block{number}.py"), dict(given))
        assert not result.get("refused")
        assert "happened" not in result
    over_smtp, over_api, with_retries = fake.messages
    assert with_retries.message["Subject"] == "Your order"
    assert over_smtp.message["X-MT-Category"] == over_api.source["category"] == "orders"
    assert over_smtp.recipients == ["ann@example.com", "bob@example.com", "archive@example.com"]
    assert [part.get_filename() for part in over_api.message.iter_attachments()] == ["invoice.pdf"]


def test_the_first_command_shows_what_arrived() -> None:
    command = [sys.executable, str(REPOSITORY / "tests" / "fake_mailtrap.py")]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    for words in ("$ python smtp_client.py", "$ python api_client.py", "Captured from smtp (sandbox)"):
        assert words in result.stdout
    assert result.stdout.count("  From: Mailtrap Test <hello@example.com>\n") == 2
    assert result.stdout.count("  | It works: Mailtrap took this message") == 2
    assert len(re.findall(r"^  text/(plain|html), \d+ bytes$", result.stdout, re.MULTILINE)) == 4


def test_the_settings_are_those_that_the_scripts_read() -> None:
    environ = {
        "MAILTRAP_SMTP_USERNAME": "u",
        "MAILTRAP_SMTP_PASSWORD": "p",
        "MAILTRAP_API_TOKEN": "t",
        "MAILTRAP_SANDBOX_ID": "1",
        "MAILTRAP_FROM_EMAIL": "a@example.com",
        "MAILTRAP_TO_EMAIL": "b@example.com",
    }
    read = {**smtp_client.read_settings(environ), **api_client.read_settings(environ)}
    rows = {name.strip("`"): default.strip("`") for name, (default, *_) in table("setting \\| default").items()}
    assert rows == {name: "" if name in environ else value for name, value in read.items()}


def test_the_flags_are_those_that_the_scripts_take(run: Run, call: Run) -> None:
    helps = [run(script, "--help", COLUMNS="110").stdout for script in SCRIPTS]
    for script, text in zip(SCRIPTS, helps, strict=True):
        assert call(script, "--help", COLUMNS="110").stdout.partition("\n\n")[2] == text.partition("\n\n")[2]
    assert [f"$ python api_client.py --help\n{helps[1]}".split()] == [
        block.split() for block in blocks("console") if "--help" in block
    ]
    of_smtp, of_api = (re.findall(r"^  --.*$", text.split("options:")[1], re.MULTILINE) for text in helps)
    own = [line for line in of_api if re.match("  --(stream|template|var) ", line)]
    assert [line.split() for line in of_smtp] == [line.split() for line in of_api if line not in own]
    assert "Send one test message to Mailtrap over SMTP." in helps[0]
    assert len(own) == 3


def test_the_exit_statuses_are_those_of_the_scripts() -> None:
    used = {"0", "2"}
    for script in SCRIPTS:
        source = (REPOSITORY / f"{script}.py").read_text("utf-8")
        used |= set(re.findall(r", (\d\d)(?:, (?:True|False)|\)$)", source, re.MULTILINE))
        used |= set(re.findall(r"return (\d+)$", source, re.MULTILINE))
    assert set(table("exit status")) == used


def test_links_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https://"):
            assert (REPOSITORY / target).exists()


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(README.splitlines()) < 300
