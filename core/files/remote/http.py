"""Files of web servers, read by HTTP's ranges (RFC 9110, section 14) with Python's own client.

fsspec's client would bring aiohttp and the seven packages that it needs, and takes an answer of the whole file for one
of the part that was asked for.
"""

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from diptych.core.files.errors import RemoteError
from diptych.core.files.remote.credentials import token_for
from diptych.core.files.remote.store import Described, TryAgain, check_unchanged

TIMEOUT_SECONDS = 30.0
"""After which a server that sends nothing counts as stalled."""
SLOWEST_BYTES_A_SECOND = 50_000
"""A server that stays below this counts as stalled, too."""

_PIECE_BYTES = 1 << 16
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")
_ALLOWED = "%/:?#[]@!$&'()*+,;=~"  # in an address, with letters and digits (RFC 3986, section 2)
_MAY_PASS = (408, 425, 429)  # timeout, too early, too many requests; and all from 500 on
_ADVICE = {
    401: "Log in, or give an address that needs no login.",
    403: "Ask for access, or for a new address where this one has expired.",
    404: "Is the address right?",
    410: "Is the address right?",
}


class HttpStore:
    """`http://` and `https://`; proxies are those of the environment (HTTPS_PROXY, NO_PROXY)."""

    def describe(self, url: str) -> Described:
        """See `store.Store`; a part of one byte is asked for, since addresses that are signed for reading often refuse
        HEAD.
        """
        answer = _asked(url, 0, 1)
        with answer:
            return _described(url, answer)

    def fetch(self, url: str, offset: int, size: int, expected: Described) -> bytes:
        """See `store.Store`."""
        answer = _asked(url, offset, size)
        with answer:
            check_unchanged(url, _described(url, answer), expected)
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if found is None or (found[1], found[2]) != (str(offset), str(offset + size - 1)):
                got = answer.headers.get("Content-Range")
                raise TryAgain(f"it answered with the range {got}, expected bytes {offset}-{offset + size - 1}")
            return _body(answer, size)


def read_page(url: str, most_bytes: int) -> bytes:
    """A whole small page, such as an answer of the hub's; raises as `Store` does."""
    with _sent(url, {}) as answer:
        try:
            page = answer.read(most_bytes + 1)
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(_told(error)) from None
    if len(page) > most_bytes:
        raise RemoteError(f"{url} answers with more than {most_bytes:,} bytes. Is the address right?")
    if answer.length:  # what is missing; a read of so many bytes at most does not complain
        raise TryAgain(f"the connection was cut after {len(page):,} bytes")
    return page


def _asked(url: str, offset: int, size: int) -> http.client.HTTPResponse:
    return _sent(url, {"Range": f"bytes={offset}-{offset + size - 1}"})


def _sent(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """The open answer to a request, after redirections."""
    typed = quote(url, safe=_ALLOWED)  # spaces and letters of other alphabets as servers take them
    request = urllib.request.Request(typed, headers={"Accept-Encoding": "identity", "User-Agent": "diptych"} | headers)
    token = token_for(url)
    if token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {token}")  # the token is for this server alone
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:
            return error  # type: ignore[return-value]  # it has the headers that say how long the file is
        error.close()
        if error.code in _MAY_PASS or error.code >= 500:
            raise TryAgain(f"it answered {error.code} {error.reason}", _retry_after(error)) from None
        advice = _ADVICE.get(error.code, "Is the address right?")
        raise RemoteError(f"{url} cannot be read: it answered {error.code} {error.reason}. {advice}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise RemoteError(f"{url} cannot be trusted: {error.reason}.") from None
        raise TryAgain(_told(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise TryAgain(_told(error)) from None


def _described(url: str, answer: http.client.HTTPResponse) -> Described:
    identity = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    if answer.status == 200 and answer.headers.get("Content-Length") == "0":
        return Described(0, identity)
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if found is None:
        raise TryAgain(
            f"it answered {answer.status} to a request for a part, expected 206: it does not know ranges, without "
            "which all of a file would be sent for each picture; use a server that does, or download the files and "
            "give their folder"
        )
    return Described(int(found[3]), identity)


def _body(answer: http.client.HTTPResponse, size: int) -> bytes:
    """The `size` bytes of an answer."""
    begun, longest = time.monotonic(), TIMEOUT_SECONDS + size / SLOWEST_BYTES_A_SECOND
    pieces, missing = [], size
    while missing:
        try:
            piece = answer.read1(min(missing, _PIECE_BYTES))
        except (OSError, http.client.HTTPException) as error:
            raise TryAgain(f"{_told(error)} after {size - missing:,} of {size:,} bytes") from None
        if not piece:
            raise TryAgain(f"the connection was cut after {size - missing:,} of {size:,} bytes")
        if time.monotonic() > begun + longest:
            raise TryAgain(f"it has sent {size - missing:,} of {size:,} bytes in {longest:.0f} s")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _told(error: object) -> str:
    if isinstance(error, TimeoutError):
        return f"it sent nothing for {TIMEOUT_SECONDS:g} s"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    return str(error) or type(error).__name__


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds, from a number of them or from a date (RFC 9110, section 10.2.3)."""
    given = error.headers.get("Retry-After", "")
    if given.isdecimal():
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
