"""The two programs: settings, words, exit statuses; each as main() has them."""

import re
import shutil
import signal
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

import api_client
import smtp_client
from conftest import PORTS, PROXY, REPOSITORY, api_of, new_mail, python, python_until_sent
from fake_mailtrap import FakeMailtrap, Fault, http

ACCEPTED, UNKNOWN, WRONG_INPUT, NOT_SENT = 0, 1, 2, 3
SMTP, API = "smtp_client", "api_client"
MODULES = {SMTP: smtp_client, API: api_client}
both = pytest.mark.parametrize("script", [SMTP, API])

LIVE = {"MAILTRAP_SMTP_HOST": "live.smtp.mailtrap.io", "MAILTRAP_SMTP_USERNAME": "api"}
LIVE["MAILTRAP_SMTP_PASSWORD"] = FakeMailtrap.token
OVER_API = "Mailtrap's API, stream {}"
WAYS = [  # script; settings; the place that is told; the stream where it arrives
    (SMTP, {"MAILTRAP_TO_EMAIL": " you@example.com "}, "sandbox.smtp.mailtrap.io:2525", "sandbox"),
    (SMTP, LIVE, "live.smtp.mailtrap.io:2525", "transactional"),
    (API, {}, OVER_API, "sandbox"),
    (API, {"MAILTRAP_STREAM": "transactional"}, OVER_API, "transactional"),
    (API, {"MAILTRAP_STREAM": "bulk", "MAILTRAP_SANDBOX_ID": ""}, OVER_API, "bulk"),
]


@pytest.mark.parametrize(("script", "settings", "place", "stream"), WAYS)
def test_it_says_where_to_and_sends_text_and_html(script, settings, place, stream, run, fake):
    result = run(script, **settings)
    [captured] = fake.messages
    assert (result.status, result.err, captured.stream) == (ACCEPTED, "", stream)
    first, last = result.out.splitlines()
    fate = "This is not the sandbox: real people may receive it."
    if stream == "sandbox":
        fate = "The sandbox captures it: nobody receives it."
    assert first == f"Sending to {place.format(stream)}. {fate}"
    assert (captured.sender, captured.recipients) == ("hello@example.com", ["you@example.com"])
    assert not captured.subject.isascii()
    assert "äöü, €, 你好" in captured.text
    if script == API:
        assert captured.source["html"].startswith("<h3>")
        assert last.startswith("Accepted: ['5000001")
    else:
        assert b"Content-Type: text/html" in captured.source
        assert f"\nMessage-ID: {last.removeprefix('Accepted: ')}\r" in captured.source.decode()


@both
@pytest.mark.parametrize("arguments", ["--help", "--to x", "x", "--help x"])
def test_help_and_wrong_arguments_print_the_docstring(script, arguments, run, fake):
    result = run(script, *arguments.split())
    assert result.status == (0 if arguments == "--help" else WRONG_INPUT)
    assert result.out == f"{MODULES[script].__doc__}\n"
    assert f"\n    python {script}.py\n" in result.out
    assert fake.steps == {}


WRONG_SETTINGS = """
MAILTRAP_SMTP_USERNAME, MAILTRAP_SMTP_PASSWORD | "", " " | Sandboxes > (your sandbox) > Integration
MAILTRAP_API_TOKEN, MAILTRAP_SANDBOX_ID | " ", "" | Settings > API Tokens; number in your sandbox
MAILTRAP_SMTP_PORT | "x" | 'x'; number up to 65535
MAILTRAP_SMTP_PORT | "0" | '0'
MAILTRAP_SMTP_PORT | "65536" | '65536'
MAILTRAP_SMTP_PORT | "9" * 9999 | number up to 65535
MAILTRAP_STREAM | "live" | 'live'; sandbox, transactional or bulk
MAILTRAP_SANDBOX_ID | "12/../x?y" | '12/../x?y'; the number in your sandbox
MAILTRAP_SANDBOX_ID | "٤٢" | '٤٢'
MAILTRAP_FROM_EMAIL | "a@b.c, d@e.f" | 'a@b.c, d@e.f'
MAILTRAP_TO_EMAIL | "“a”@b.c" | '“a”@b.c'
MAILTRAP_TO_EMAIL | "you" | 'you'
MAILTRAP_SMTP_HOST | "two words" | a host name
MAILTRAP_SMTP_USERNAME | "canary “x”" | Integration > SMTP
MAILTRAP_SMTP_PASSWORD | "canary b" | Integration > SMTP
MAILTRAP_API_TOKEN | "canary\\nb" | Settings > API Tokens
MAILTRAP_API_TOKEN | "canary\\udcff" | Settings > API Tokens
"""


@pytest.mark.parametrize("row", WRONG_SETTINGS.strip().splitlines())
def test_wrong_settings(row, run, fake):
    names, values, words = row.split(" | ")
    settings = dict(zip(names.split(", "), eval(f"[{values}]"), strict=True))
    for script in (it for it in MODULES if set(settings) <= set(MODULES[it].SETTINGS)):
        result = run(script, **settings)
        assert (result.status, result.out, fake.steps) == (WRONG_INPUT, "", {})
        assert all(word in result.err for word in [*settings, *words.split("; ")])
        assert "canary" not in result.err
        assert result.err.splitlines()[-1].startswith("Nothing was sent. Correct it in .env.")


# Script and step, or status; what the server says; the exit status; what is told.
FAULTS = f"""
AUTH | 535 5.7.0 Invalid login | 3 | : 535 5.7.0 Invalid; _USERNAME and MAILTRAP_SMTP_PASSWORD must
AUTH | 535 5.7.0 Monthly messages limit reached | 3 | login is right; Billing
AUTH | 535 5.7.0 The email limit is reached. Upgrade | 3 | login is right; Billing
AUTH | 535 5.7.8 Too many connections per account | 3 | wait a minute
AUTH | 504 5.5.4 Not here | 3 | objects to
MAIL | 552 5.3.4 Error: message too big | 3 | smtp_client: 552; objects to
MAIL | 550 5.7.1 Sending from domain e.com is not allowed | 3 | MAILTRAP_FROM_EMAIL; Sending Domains
RCPT | 550 5.1.1 No such user | 3 | smtp_client: 550 5.1.1 No such user; objects to
content | 550 5.7.0 Too many emails per second | 3 | wait a minute
content | 550 \x1b[2Jä\u202e {"x" * 500} | 3 | smtp_client: 550  [2Jä  xxx; objects to
content | 333 Go on | 1 | 333; before you send it again
EHLO | 250 AUTH PLAIN | 3 | no TLS, so no password
greeting | {"x" * 9000} | 3 | Line too long; your network
401 | Unauthorized | 3 | api_client: 401 Unauthorized; MAILTRAP_API_TOKEN; Settings > API Tokens
403 | Forbidden | 3 | 403 Forbidden; MAILTRAP_API_TOKEN
404 | Not Found | 3 | 404 Not Found; MAILTRAP_SANDBOX_ID
422 | \x1b[2J {"x" * 500} | 3 | api_client: 422  [2J xxx; objects to
429 | Rate limit exceeded | 3 | 429 Rate limit; wait a minute
429 | The email limit is reached. Upgrade | 3 | plan; Billing
503 | Busy | 1 | api_client: 503 Busy; before you send it again
200 | no | 1 | success=False; before you send it again
"""


@pytest.mark.parametrize("row", FAULTS.strip().splitlines(), ids=lambda row: row[:40])
def test_what_is_told(row, run, fake):
    step, said, status, words = row.split(" | ")
    script, fault = SMTP, Fault(step, f"{said}\r\n".encode())
    if step.isdecimal():
        errors = {"success": False, "errors": [said], "message_ids": []}
        script, fault = API, Fault("content", http(int(step), errors))
    fake.reset(fault)
    result = run(script)
    assert result.status == int(status)
    assert all(word in result.err for word in words.split("; "))
    assert re.fullmatch(f"{script}: .{{1,400}}\n[A-Z].*\\.\n", result.err)
    assert result.err.replace("\n", "").isprintable()


WRONG_PROXIES = ["http://", "http://proxy:abc", "ftp://127.0.0.1:9", "socks5://127.0.0.1:9"]
MALFORMED = ["http://u:pa#ss@host", "http://u:pa/ss@host", "http://a..b:1"]
NOT_A_PROXY = "HTTPS_PROXY is not the address of a proxy"  # and nothing of its password
REFUSED, CHECK = r"\[Errno \d+\] Connection refused", "your network(?!.*SANDBOX)"
NO_WAY = [  # script; settings; what happened; what to do
    (SMTP, {}, REFUSED, CHECK),
    (SMTP, {"MAILTRAP_SMTP_HOST": "a..b"}, ".+", "MAILTRAP_SMTP_HOST"),
    (API, {"MAILTRAP_SANDBOX_ID": "2404131"}, REFUSED, CHECK),
    (API, {"REQUESTS_CA_BUNDLE": "/no/ca.pem"}, ".*/no/ca.pem.*", "REQUESTS_CA_BUNDLE"),
    *[(API, {**PROXY, "HTTPS_PROXY": url}, ".+", "HTTPS_PROXY") for url in WRONG_PROXIES],
    *[(API, {**PROXY, "HTTPS_PROXY": url}, NOT_A_PROXY, "HTTPS_PROXY") for url in MALFORMED],
]


@pytest.mark.parametrize(("script", "settings", "happened", "what_to_do"), NO_WAY)
def test_no_way_to_the_server(script, settings, happened, what_to_do, run, monkeypatch):
    for port in PORTS["ports"]:
        monkeypatch.setitem(PORTS["ports"], port, 1)  # where nobody listens
    result = run(script, **settings)
    assert result.status == NOT_SENT
    assert re.fullmatch(f"{script}: {happened}\n.*{what_to_do}.*\n", result.err)


@both
@pytest.mark.parametrize("name", ["mailtrap.io", "other.example"])
def test_a_server_that_is_not_to_be_trusted_gets_nothing(script, name, run, fake, monkeypatch):
    monkeypatch.setattr(fake, "tls", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    authority = trustme.CA() if name == "mailtrap.io" else fake.authority
    authority.issue_cert(f"*.smtp.{name}", f"*.api.{name}").configure_cert(fake.tls)
    result = run(script)
    assert (result.status, fake.steps["AUTH"], fake.steps["headers"]) == (NOT_SENT, 0, 0)
    assert "CERTIFICATE_VERIFY_FAILED" in result.err
    ca_file = {SMTP: "SSL_CERT_FILE", API: "REQUESTS_CA_BUNDLE"}[script]
    assert f"ame your network's CA file in {ca_file}." in result.err


def copied(script: str) -> str:
    """Return what stands between the two lines of a script."""
    source = (REPOSITORY / f"{script}.py").read_text("utf-8")
    return source.split("# ---- ")[1].partition("\n")[2]


@both
def test_env_is_read_beside_the_script_and_nowhere_else(script, folder, fake):
    below = folder / "below"
    below.mkdir()
    one, other = (shutil.copy(REPOSITORY / f"{script}.py", it) for it in (folder, below))
    result = python(one, cwd="/")
    assert (result.returncode, result.stderr, len(fake.messages)) == (ACCEPTED, "", 1)
    fake.reset()
    assert python(other).returncode == WRONG_INPUT
    (below / ".env").write_text((folder / ".env").read_text(), "utf-16")
    result = python(other)
    assert (result.returncode, fake.steps) == (WRONG_INPUT, {})
    assert re.fullmatch(r"\w+: 'utf-8' codec .*\n.* \.env\.\n", result.stderr)


def test_netrc_does_not_replace_the_token(run, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("default login a password b\n")
    monkeypatch.delenv("NETRC")
    assert run(API, HOME=str(tmp_path)).status == ACCEPTED


@both
def test_ctrl_c_is_an_unknown_outcome(script, fake):
    fake.reset(Fault("content", b"", "silence", takes=True))
    program = REPOSITORY / f"{script}.py"
    status, printed, errors = python_until_sent(fake, signal.SIGINT, program)
    assert (status, printed) == (UNKNOWN, True)
    assert re.fullmatch(f"{script}: KeyboardInterrupt.*\n.* before you send it again.\n", errors)


def test_tls_1_1_is_refused_where_openssl_allows_it(fake, tmp_path, monkeypatch):
    debian = "/usr/bin/python3"  # some Pythons leave the least version to OPENSSL_CONF
    ask = "import ssl; print(ssl.create_default_context().minimum_version < 771)"
    if not Path(debian).exists() or subprocess.check_output([debian, "-Ic", ask]) != b"True\n":
        pytest.skip("needs such a Python")
    monkeypatch.setattr(fake, "tls", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    fake.authority.issue_cert("*.smtp.mailtrap.io").configure_cert(fake.tls)
    fake.tls.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        fake.tls.minimum_version = fake.tls.maximum_version = ssl.TLSVersion.TLSv1_1
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n"
        "[c]\nMinProtocol = TLSv1\nCipherString = ALL:@SECLEVEL=0\n"
    )
    monkeypatch.setenv("OPENSSL_CONF", str(tmp_path / "openssl.cnf"))
    program = copied(SMTP) + 'connect("sandbox.smtp.mailtrap.io", 2525, "u", "p").__enter__()'
    result = subprocess.run([debian, "-c", program], capture_output=True, text=True)
    assert ("ssl.SSLError" in result.stderr, fake.steps["AUTH"]) == (True, 0)


def test_a_missing_package_is_told_by_the_traceback():
    for package, script in (("dotenv", SMTP), ("dotenv", API), ("mailtrap", API)):
        program = f"import sys; sys.modules[{package!r}] = None; import {script}"
        result = python("-c", program, cwd=REPOSITORY)
        assert "# missing? pip install -r requirements.txt" in result.stderr


USE_OF_THE_COPY = {
    SMTP: """
message = build_message(("Zoë", "a@b.c"), [("", "d@e.f")], "ä", "x", "x")
with connect("sandbox.smtp.mailtrap.io", 2525, fake.username, fake.password) as smtp:
    smtp.sendmail("a@b.c", ["d@e.f"], message.as_string())
    smtp.sendmail("a@b.c", ["d@e.f"], message.as_string())
assert is_temporary(smtplib.SMTPDataError(450, b"x"))
""",
    API: """
send(api, mail)
send(api, mail)
assert is_temporary(mt.APIError(429, ["x"]))
assert is_unsent(OSError(NewConnectionError(None, "")))
""",
}


@both
def test_what_is_copied_stands_alone_and_keeps_its_connection(script, fake):
    assert not re.search(r"\b(print|environ|dotenv|main)\b", copied(script))
    program = copied(script) + USE_OF_THE_COPY[script]
    exec(program, {"fake": fake, "api": api_of(fake), "mail": new_mail()})
    assert (len(fake.messages), fake.steps["TLS"]) == (2, 1)
