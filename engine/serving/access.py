"""Rules of access: names that a server is called by, pages that may send to it, and the token of those elsewhere."""

import hmac
import ipaddress
import re
import secrets
from email.message import Message
from http.cookies import CookieError, SimpleCookie

from diptych.engine.serving.refusals import Refused

LEAST_TOKEN = 16
_TOKEN = re.compile(r"[A-Za-z0-9_.~-]+")
_ANYWHERE = ("0.0.0.0", "::")


def is_loopback(host: str) -> bool:
    """Whether nothing outside this machine can reach a server on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_token(token: str) -> None:
    """Raises ValueError for a token that is too short, or that an address cannot hold."""
    if len(token) < LEAST_TOKEN or not _TOKEN.fullmatch(token):
        raise ValueError(
            f"--token must be at least {LEAST_TOKEN} letters, digits or any of _.~-, got {len(token)} characters. "
            "Without it, one is made where it is needed."
        )


class Access:
    """The rules of one server.

    On an address of this machine alone, a request must call it by such a name: a page of the internet that the same
    browser shows may send requests here, under another name (DNS rebinding). On any other address a token is needed,
    in the header Authorization or in the cookie that the page has asked for; one is made where none is given.

    Attributes:
        token: None where none is needed.
    """

    def __init__(self, host: str, token: str | None = None):
        self.host, self.local = host, is_loopback(host)
        if token is not None:
            check_token(token)
        self.token = token if token is not None or self.local else secrets.token_urlsafe(24)
        self._names = {"localhost", _bracketed(host)}

    def url(self, port: int) -> str:
        """Where the page is, as a browser on this machine finds it."""
        return f"http://{_bracketed('127.0.0.1' if self.host in _ANYWHERE else self.host)}:{port}/"

    def check_host(self, headers: Message, url: str) -> None:
        """Raises `Refused` for a request that calls this server by another name."""
        hosts = headers.get_all("Host", [])
        name = (
            re.fullmatch(r"([0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", hosts[0]) if len(hosts) == 1 else None
        )
        if name is None or (self.local and name[1].lower() not in self._names):
            raise Refused(403, f"This page is for this machine alone: open {url}")

    def check_origin(self, headers: Message, url: str, *, by_programs: bool) -> None:
        """Raises `Refused` for what another page sends. Programs send no Origin; `by_programs` says whether they may
        ask here.
        """
        origin, host = headers.get("Origin"), headers["Host"]
        if origin is None and by_programs and headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return
        if origin not in (f"http://{host}", *(() if self.local else (f"https://{host}",))):
            raise Refused(403, f"Only the page itself may ask; a program sends the header Origin: {url[:-1]}")

    def check_token(self, headers: Message, port: int) -> None:
        """Raises `Refused` for a request without the token; one comparison takes as long as any other."""
        if self.token is None or _same(_bearer(headers), self.token) or _same(_cookie(headers, port), self.token):
            return
        raise Refused(
            401,
            "The token is missing or wrong. A program sends the header Authorization: Bearer TOKEN; a browser opens "
            "the address that the terminal shows, which ends in #token=…",
        )

    def cookie(self, headers: Message, port: int) -> dict[str, str]:
        """The header that gives the page its cookie, for the token in the header Authorization."""
        if self.token is None:
            return {}
        if not _same(_bearer(headers), self.token):
            raise Refused(401, "The token is wrong: open the address that the terminal shows.")
        return {"Set-Cookie": f"{_name(port)}={self.token}; Path=/; HttpOnly; SameSite=Strict"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), token.encode())


def _bearer(headers: Message) -> str:
    kind, _, token = str(headers.get("Authorization", "")).partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _cookie(headers: Message, port: int) -> str:
    try:
        cookies = SimpleCookie(headers.get("Cookie", ""))
    except CookieError:
        return ""
    found = cookies.get(_name(port))
    return found.value if found else ""


def _name(port: int) -> str:
    return f"diptych_{port}"  # cookies are sent to all ports of a machine
