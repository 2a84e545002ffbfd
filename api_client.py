"""Send one test message to Mailtrap over its API, and say whether Mailtrap accepted it.

    python api_client.py

.env.example explains the settings. To send something else, edit main().

Exit status:
    0  accepted
    1  unknown: no clear answer after sending began; look in Mailtrap before you try again
    2  not sent: a setting is missing or wrong
    3  not sent: there was no connection, or Mailtrap refused the message
"""

import os
import re
import sys
from pathlib import Path

from dotenv import load_dotenv  # missing? pip install -r requirements.txt
from requests.exceptions import SSLError

# ---- Copy from here to "End of copy". It reads no setting and prints nothing. ----

import ssl

import mailtrap as mt  # missing? pip install -r requirements.txt
from mailtrap.api.sending import SendingApi
from requests.exceptions import InvalidProxyURL, InvalidSchema
from urllib3.exceptions import ConnectTimeoutError, LocationValueError, NewConnectionError


def send(api: SendingApi, mail: mt.BaseMail) -> list[str]:
    """Send a mail; return its message ids, one from the sandbox, else one per recipient.

    Raises mailtrap.APIError if Mailtrap refused it, OutcomeUnknownError, or what requests raises.
    """
    try:
        answer = api.send(mail)
    except Exception as error:
        if is_unsent(error):
            raise
        raise OutcomeUnknownError(str(error)) from error
    if not (answer.success and answer.message_ids):  # HTTP 200 alone does not mean accepted
        raise OutcomeUnknownError(f"the answer was {answer}")
    return answer.message_ids


class OutcomeUnknownError(Exception):
    """The message may have been accepted, or not. After any other Exception, nothing was sent."""


def is_unsent(error: BaseException) -> bool:
    """Say whether an error from the SDK proves that nothing was sent."""
    no_connection = NewConnectionError, ConnectTimeoutError, ssl.SSLCertVerificationError
    wrong_proxy = InvalidProxyURL, InvalidSchema, LocationValueError
    return (
        isinstance(error, no_connection + wrong_proxy)
        or (isinstance(error, mt.APIError) and 400 <= error.status <= 499)
        # Plain OSErrors: the proxy's no, and a REQUESTS_CA_BUNDLE that is not there.
        or (type(error) is OSError and str(error).startswith(("Tunnel ", "Could not find ")))
        or any(is_unsent(cause) for cause in causes(error))
    )


def causes(error: BaseException) -> list[BaseException]:
    """Return the errors inside an error, as requests and urllib3 wrap them."""
    return [it for it in (error.__cause__, *error.args) if isinstance(it, BaseException)]


def is_temporary(error: Exception) -> bool:
    """Say whether Mailtrap refused only for now, so that trying again may help."""
    is_429 = isinstance(error, mt.APIError) and error.status == 429
    return is_429 and "limit is reached" not in str(error)  # a plan that is used up is 429, too


# ---- End of copy. ----

LOOK_FIRST = "It may have been accepted: look in Mailtrap before you send it again."
STREAMS = "sandbox|transactional|bulk"
SETTINGS = {  # name: default, pattern, what it must be; {!r} shows what it is
    "MAILTRAP_API_TOKEN": ("", "[!-~]+", "copied from Settings > API Tokens"),
    "MAILTRAP_STREAM": ("sandbox", STREAMS, "sandbox, transactional or bulk, not {!r}"),
    "MAILTRAP_SANDBOX_ID": ("", "[0-9]+", "the number in your sandbox's URL, not {!r}"),
    "MAILTRAP_FROM_EMAIL": ("hello@example.com", "[!-~]+@[!-~]+", "one address, not {!r}"),
    "MAILTRAP_TO_EMAIL": ("you@example.com", "[!-~]+@[!-~]+", "one address, not {!r}"),
}
ADVICE = {  # by HTTP status
    401: "MAILTRAP_API_TOKEN is wrong or expired, or may not send here: see Settings > API Tokens.",
    403: "MAILTRAP_API_TOKEN may not send here, or not from the domain of MAILTRAP_FROM_EMAIL.",
    404: "MAILTRAP_SANDBOX_ID must be the number in your sandbox's URL.",
    429: "Your plan is used up: see Billing in Mailtrap.",
}


def main(argv: list[str] | None = None) -> int:
    """Send one test message; return the exit status."""
    if argv:
        print(__doc__)
        return 0 if argv == ["--help"] else 2
    try:
        token, stream, sandbox_id, sender, to = read_settings()
    except (OSError, ValueError) as error:
        print(f"api_client: {error}\nNothing was sent. Correct it in .env.", file=sys.stderr)
        return 2

    text = "api_client.py sent this. These should look right: äöü, €, 你好."
    mail = mt.Mail(
        sender=mt.Address(sender),
        to=[mt.Address(to)],
        subject="It works ✓",
        text=text,
        html=f"<h3>{text}</h3>",
    )
    sandbox = stream == "sandbox"
    client = mt.MailtrapClient(token, sandbox=sandbox, bulk=stream == "bulk", inbox_id=sandbox_id)
    os.environ["NETRC"] = os.devnull  # an entry in ~/.netrc would replace the token

    fate = "This is not the sandbox: real people may receive it."
    if sandbox:
        fate = "The sandbox captures it: nobody receives it."
    print(f"Sending to Mailtrap's API, stream {stream}. {fate}", flush=True)
    try:
        message_ids = send(client.sending_api, mail)
    except (OutcomeUnknownError, KeyboardInterrupt) as error:
        print(f"api_client: {describe(error)}\n{LOOK_FIRST}", file=sys.stderr)
        return 1
    except (mt.APIError, OSError, LocationValueError) as error:
        print(f"api_client: {describe(error)}\n{advice(error)}", file=sys.stderr)
        return 3
    print(f"Accepted: {message_ids!a}")  # !a escapes what could steer a terminal
    return 0


def read_settings() -> list[str]:
    """Return the values of SETTINGS; raises ValueError for all that are missing or wrong."""
    # Only the .env beside this script, not one of a folder above; a token may hold "${".
    load_dotenv(Path(__file__).with_name(".env"), interpolate=False)
    found: list[str] = []
    wrong = []
    for name, (default, pattern, meaning) in SETTINGS.items():
        value = os.environ.get(name, "").strip() or default
        if name == "MAILTRAP_SANDBOX_ID" and found[1] != "sandbox":  # found[1] is the stream
            value = ""  # other streams have none
        elif not re.fullmatch(pattern, value):
            wrong.append(f"{name} must be {meaning.format(value)}.")
        found.append(value)
    if wrong:
        raise ValueError("\n".join(wrong))
    return found


def describe(error: BaseException) -> str:
    """Return what happened, in at most 400 characters, without any that steer a terminal."""
    told = str(error) or repr(error)
    for cause in causes(error):
        told = describe(cause)
    if isinstance(error, mt.APIError):
        told = f"{error.status} {error}"
    if isinstance(error, LocationValueError):  # its text may hold a part of a password
        told = "HTTPS_PROXY is not the address of a proxy"
    return "".join(it if it.isprintable() else " " for it in told)[:400]


def advice(error: Exception) -> str:
    """Return what to do about a message that was not sent."""
    if is_temporary(error):
        return "Mailtrap refuses it only for now: wait a minute, then try again."
    if isinstance(error, mt.APIError):
        return ADVICE.get(error.status, "Correct what Mailtrap objects to, then try again.")
    if isinstance(error, SSLError):
        return "Name your network's CA file in REQUESTS_CA_BUNDLE."
    return "Check your network, and HTTPS_PROXY and REQUESTS_CA_BUNDLE if they are set."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
