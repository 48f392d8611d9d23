"""Check requests before the application gets them: token, host name, origin and size of the body. Add headers to every answer.

A server without a token is for its own machine only. A page of another site, open in the same browser, could still send
requests to it. So the Host header must be a name of this machine (against DNS rebinding), and an Origin header must be equal to
the host.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
LOCAL = ("127.0.0.1", "localhost", "::1")
UPLOADS = "/api/uploads"
COOKIE = "jukebox_token"
BODY = 400_000  # largest body in bytes, except of an upload
HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin", "cache-control": "no-cache",
}  # fmt: skip


class Guard:
    """An ASGI application that checks requests and passes them to another application."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str = "", hosts: Iterable[str] = LOCAL):
        self.app, self.token, self.hosts = app, token, set(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def answer(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if reason := self._reason(scope, headers):
            return await _reply(answer, *reason)
        if self.token and scope["path"] == "/" and hmac.compare_digest(_query_token(scope).encode(), self.token.encode()):
            cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            return await _reply(answer, 303, "go on to the page", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        await self.app(scope, receive, answer)

    def _reason(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and sentence if a request is rejected, else None."""
        host, size = headers.get("host", ""), headers.get("content-length", "0")
        if not self.token and _name_of(host) not in self.hosts:
            return 403, "this server is for the machine it runs on; open it by 127.0.0.1, or start it with a token"
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site", "")
        if (origin and origin.partition("://")[2] != host) or (
            site == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
        ):
            return 403, "requests from pages of another origin are not answered"
        if self.token and not self._is_known(scope, headers):
            return 401, "this server needs its token: open the address that it printed, or send `Authorization: Bearer TOKEN`"
        if scope["path"] != UPLOADS:  # the size of an upload is checked while it is written
            if "transfer-encoding" in headers or not size.isdecimal():
                return 411, "a request needs a Content-Length"
            if int(size) > BODY:
                return 413, f"the request is larger than {BODY:,} bytes"
        return None

    def _is_known(self, scope: Scope, headers: dict[str, str]) -> bool:
        cookie = re.search(rf"(?:^|;\s*){COOKIE}=([^;\s]+)", headers.get("cookie", ""))
        given = [headers.get("authorization", "").removeprefix("Bearer ").strip(), cookie[1] if cookie else ""]
        given += [_query_token(scope)] if scope["path"] == "/" else []
        return any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given)


def _name_of(host: str) -> str:
    """Return the host name of a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _query_token(scope: Scope) -> str:
    return parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]


async def _reply(send: Send, status: int, sentence: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = json.dumps({"error": sentence}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
