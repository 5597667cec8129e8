"""Who may talk to the API at all: keys, the name in ``Host``, and what browsers say about the page behind a request.

A browser sends requests for any page that somebody looks at, to any address that its machine can reach. So a server
without keys is protected by two things that a page cannot forge: ``Host``, which holds the page's own name after
DNS rebinding, and ``Origin`` with ``Sec-Fetch-Site``. Clients that are no browsers send neither of the latter.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from flask import Response, g, request

from ..config import Settings
from ..errors import Forbidden, Misdirected, Unauthorized, shown
from . import page
from .auth import KeyRing

#: Paths that answer without a key: for a balancer and systemd, and what is no secret, as the page.
OPEN_PATHS = frozenset({"/health", "/ready", "/openapi.json"}) | page.PATHS

#: Headers of every answer, for browsers. The page's files have a policy of their own, and may be kept.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}

#: By one of these a proxy says that it passes on somebody else's request.
_FORWARDED = (
    *("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-By", "X-Forwarded-Server", "X-Real-IP", "X-Client-IP", "X-Original-Forwarded-For"),
    *("True-Client-IP", "CF-Connecting-IP"),
)
_METHODS = "GET, POST, PATCH, DELETE"
#: Seconds that a browser may remember the answer to a preflight.
_PREFLIGHT_S = 600
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(:\d{0,5})?")
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")


class Edge:
    """The rules of one server."""

    def __init__(self, settings: Settings, keys: KeyRing) -> None:
        self._keys = keys
        self._loopback_without_key = settings.loopback_without_key
        self._cors_origins = frozenset(settings.cors_origins)
        self._only_these_hosts = bool(settings.allowed_hosts)
        # No page can be reached by the last one unless the network's own name server says so.
        self._hosts = {*settings.allowed_hosts, "localhost", socket.gethostname().lower()}

    def admit(self) -> Response | None:
        """Judge the request that is being handled; the answer where it is a preflight that may be answered.

        Notes the key's name as ``g.key_name``. Raises Forbidden, Unauthorized and Misdirected.
        """
        self._check_origin()
        if self._is_from_an_allowed_page() and _is_preflight():
            # Browsers send it without the key; what it asks about is judged when it comes.
            return _preflight_answer()
        key_was_needed = self._check_key()
        if self._only_these_hosts or not key_was_needed:
            self._check_host()
        return None

    def finish(self, response: Response) -> Response:
        """Add the headers that are for browsers."""
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if self._cors_origins:
            response.vary.add("Origin")
        if self._is_from_an_allowed_page():
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = "*"
        return response

    def _is_from_an_allowed_page(self) -> bool:
        return request.headers.get("Origin", "").lower() in self._cors_origins

    def _check_origin(self) -> None:
        origin = request.headers.get("Origin")
        # "none": typed into the address bar. Absent: no browser, or one that does not trust the connection.
        own = request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        if self._is_from_an_allowed_page() or (own and (origin is None or _is_own(origin))):
            return
        if origin is None and _is_navigation():
            return
        page = "a page of another origin" if origin is None else f"a page of {shown(origin)}"
        raise Forbidden(
            f"{page} may not use this server from a browser: its origin is not among the setting `cors_origins`",
            param="Origin",
        )

    def _check_key(self) -> bool:
        """Whether the request is one that only a key opens, or that everybody may send where there are keys."""
        if request.path in OPEN_PATHS:
            return bool(self._keys.digests)
        try:
            g.key_name = self._keys.authenticate(request.headers.get("Authorization"))
        except Unauthorized:
            if self._loopback_without_key and _is_from_this_machine():
                return False
            raise
        return bool(self._keys.digests)

    def _check_host(self) -> None:
        host = request.environ.get("HTTP_HOST")
        # Every browser sends one; HTTP/1.0 has none.
        if host is None:
            return
        name = _name_in(host)
        if name is None or not (name in self._hosts or _is_address(name)):
            raise Misdirected(
                f"this server is not known as {shown(host)}: ask for it by its address, or add the name to the "
                "setting `allowed_hosts`",
                param="Host",
            )


def _name_in(host: str) -> str | None:
    """The name or address of a ``Host``; None where it is none."""
    match = _HOST.fullmatch(host)
    return match["name"].strip("[]").removesuffix(".").lower() if match else None


def _is_address(name: str) -> bool:
    """An address is never the result of a name that an attacker's DNS points here."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own(origin: str) -> bool:
    """Whether a page of this very server asks. The scheme is a proxy's to know."""
    try:
        page, server = (
            urlsplit(origin),
            urlsplit(f"{urlsplit(origin).scheme}://{request.environ.get('HTTP_HOST')}"),
        )
        usual = {"http": 80, "https": 443}.get(page.scheme)
        return bool(page.hostname) and (page.hostname, page.port or usual) == (
            server.hostname,
            server.port or usual,
        )
    except ValueError:
        return False


def _is_navigation() -> bool:
    """Whether a person follows a link to here, which shows an answer to nobody but that person."""
    sent = request.headers
    return (
        request.method in ("GET", "HEAD")
        and sent.get("Sec-Fetch-Mode") == "navigate"
        and sent.get("Sec-Fetch-Dest") == "document"
    )


def _is_from_this_machine() -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    peer = ipaddress.ip_address(str(request.remote_addr))
    # As a listener for both families sees IPv4.
    mapped = getattr(peer, "ipv4_mapped", None)
    return bool((mapped or peer).is_loopback)


def _is_preflight() -> bool:
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _preflight_answer() -> Response:
    """What the page may send. The origin is trusted by a setting, so its headers are not judged one by one."""
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = _METHODS
    asked = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADER_NAMES.fullmatch(asked):
        response.headers["Access-Control-Allow-Headers"] = asked
    response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)
    response.vary.add("Access-Control-Request-Headers")
    return response
