"""The README is true: its outputs, code, tables and links."""

import re
import subprocess
import sys

import api_client
import smtp_client
from conftest import REPOSITORY, SCRIPTS, Run
from fake_mailtrap import FakeMailtrap

README = (REPOSITORY / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", README, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def timeless(output: str) -> str:
    """Return the output without what differs from run to run."""
    output = re.sub(r"<\d[\d.]+@", "<ID@", output)
    output = re.sub(r"in \d+\.\d s", "in N s", output)
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "NOW", output)
    return re.sub(r"(Message id +)\d+", r"\1ID", output)


def test_the_outputs_are_as_printed(call: Run, fake: FakeMailtrap, smtp_names: None) -> None:
    success = call("smtp_client", MAILTRAP_SMTP_HOST="sandbox.smtp.mailtrap.io", MAILTRAP_SMTP_PORT="2525")
    assert float(re.findall(r" in ([\d.]+) s\n", success.stdout)[0]) < 60
    failure = call("api_client", MAILTRAP_API_TOKEN="wrong")
    assert (success.returncode, success.stderr, failure.returncode, failure.stdout) == (0, "", 77, "")
    shown = f"$ python smtp_client.py\n{success.stdout}$ python api_client.py\n{failure.stderr}"
    assert [timeless(block) for block in blocks("console")] == [timeless(shown)]


def test_both_scripts_print_a_success_alike(call: Run) -> None:
    over_smtp, over_api = (call(script).stdout.splitlines() for script in SCRIPTS)
    assert len(over_smtp) == len(over_api) == 6
    assert over_smtp[1:3] == over_api[1:3]
    assert timeless(over_smtp[3].replace("SMTP", "API")) == timeless(over_api[3])
    assert float(re.findall(r" in ([\d.]+) s$", over_api[0])[0]) < 60


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
    section = README.partition("\n## Settings and flags\n")[2].partition("\nFlags: ")[0]
    shown = dict(re.findall(r"`(MAILTRAP_\w+)`(?: \(`([^`]*)`)?", section))
    assert shown == {name: "" if name in environ else value for name, value in read.items()}


def test_the_flags_are_those_that_the_scripts_take(run: Run, call: Run) -> None:
    helps = [run(script, "--help", COLUMNS="110").stdout for script in SCRIPTS]
    for script, text in zip(SCRIPTS, helps, strict=True):
        assert call(script, "--help", COLUMNS="110").stdout.partition("\n\n")[2] == text.partition("\n\n")[2]
    of_smtp, of_api = (re.findall(r"^  (--\S+)(.*)$", text.split("options:")[1], re.MULTILINE) for text in helps)
    own = [flag for flag in of_api if flag[0] in ("--stream", "--template", "--var")]
    assert of_smtp == [flag for flag in of_api if flag not in own]
    shown, shown_own = re.findall(r"^Flags: (.*); for the API also (.*)\. `--to`, `--attach`", README, re.MULTILINE)[0]
    assert re.findall(r"`(--[\w-]+)", shown) == [name for name, _ in of_smtp]
    assert re.findall(r"`(--[\w-]+)", shown_own) == [name for name, _ in own]
    assert {name for name, about in of_api if "repeatable" in about} == {"--to", "--attach", "--var"}
    assert "Send one test message to Mailtrap over SMTP." in helps[0]


def test_the_exit_statuses_are_those_of_the_scripts() -> None:
    used = {"0", "2"}
    for script in SCRIPTS:
        source = (REPOSITORY / f"{script}.py").read_text("utf-8")
        used |= set(re.findall(r", (\d\d)(?:, (?:True|False)|\)$)", source, re.MULTILINE))
        used |= set(re.findall(r"(?:return |_exit\()(\d+)\)?$", source, re.MULTILINE))
    [line] = re.findall(r"^Exit status: .*$", README, re.MULTILINE)
    assert set(re.findall(r"\*\*(\d+)\*\*", line)) == used


def test_the_picture_shows_the_conversations(call: Run, fake: FakeMailtrap) -> None:
    [picture] = blocks("mermaid")
    assert call("smtp_client").returncode == call("api_client").returncode == 0
    said = [command.split()[0] for command in fake.commands]
    assert re.findall(r"\b(EHLO|AUTH|MAIL|RCPT|DATA|QUIT)\b", picture) == said
    assert f"POST {fake.requests[0][2].removesuffix('/' + fake.sandbox_id)}" in picture
    assert fake.logins[0][0] == "PLAIN"


def test_the_sections_stand_in_their_order() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "The two commands",
        "With your account",
        "What you see",
        "Copy into your project",
        "SMTP or API?",
        "Going live",
        "Troubleshooting",
        "Settings and flags",
        "Tests",
    ]


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
