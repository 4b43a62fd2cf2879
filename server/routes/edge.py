"""What every request passes: where it comes from, whether it may come in, and how its answer leaves."""

import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from server.domain.errors import (
    ChatError,
    DrainingError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
)
from server.domain.ratelimit import Rate, RateLimiter
from server.services.health import Health
from server.services.views import error_view
from server.telemetry import Repeats, get_logger, new_error_id
from server.views import ErrorView

SOCKETIO_PATH = "/socket.io/"
_log = get_logger(__name__)
_malformed = Repeats()
_HEADERS: Mapping[str, str] = {
    "Server": "Tertulia",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: data:; "
        "media-src 'self' https:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CORS_HEADERS: Mapping[str, str] = {
    "Server": "Tertulia",
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type",
    "Access-Control-Max-Age": "600",
}
_LOCAL_ORIGINS = ("http://localhost:*", "http://127.0.0.1:*")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EdgeRules(Struct, frozen=True, kw_only=True):
    """`connections_per_min` None: no limit."""

    allowed_origins: Sequence[str]
    trusted_proxies: Sequence[str]
    connections_per_min: int | None
    allows_localhost: bool


def json_response(data: object, *, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=msgspec.json.encode(data), status=status, content_type="application/json")


def error_response(error: ChatError) -> web.Response:
    """`{error}` with the status of its code; Retry-After in whole seconds where it says when to repeat."""
    response = json_response({"error": error_view(error)}, status=error.http_status)
    if error.retry_after_ms is not None:
        response.headers["Retry-After"] = str(-(-error.retry_after_ms // 1000))
    return response


class Edge:
    """The middleware around everything."""

    def __init__(self, rules: EdgeRules, health: Health, limiter: RateLimiter) -> None:
        local = _LOCAL_ORIGINS if rules.allows_localhost else ()
        self._origins = [_origin_pattern(origin) for origin in (*rules.allowed_origins, *local)]
        self._proxies = [ipaddress.ip_network(network) for network in rules.trusted_proxies]
        self._connections_per_min = rules.connections_per_min
        self._health = health
        self._limiter = limiter
        self._refusals = Repeats()

    def client_address(self, request: web.Request) -> str:
        """The client: the last one in X-Forwarded-For that is no trusted proxy, or the peer."""
        address = request.remote or ""
        if not self._is_trusted(address):
            return address
        forwarded = ",".join(request.headers.getall("X-Forwarded-For", []))
        for hop in reversed([each.strip() for each in forwarded.split(",") if each.strip()]):
            if not _is_address(hop):
                break
            address = hop
            if not self._is_trusted(hop):
                break
        return address

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the origin, handle, turn every failure into an answer with a code, and add the headers."""
        origin = request.headers.get("Origin")
        try:
            self._require_origin(request, origin)
            if request.method == "OPTIONS":
                response: web.StreamResponse = web.Response(status=204)
            else:
                self._require_admission(request)
                response = await handler(request)
        except ChatError as error:
            response = error_response(error)
        except web.HTTPException as error:
            response = _of_http_error(request, error)
        except Exception:  # noqa: BLE001 - logged; every request is answered
            error_id = new_error_id()
            _log.exception("http.failed", path=request.path, error_id=error_id)
            response = error_response(InternalError(error_id))
        if not response.prepared:
            self._add_headers(request, response, origin)
        return response

    def _add_headers(self, request: web.Request, response: web.StreamResponse, origin: str | None) -> None:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if request.path.startswith(("/api/", SOCKETIO_PATH)):
            response.headers.setdefault("Cache-Control", "no-store")
            response.headers["Vary"] = "Origin"
            if origin is not None and self._is_allowed(request, origin):
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers.update(_CORS_HEADERS)
        else:
            response.headers.setdefault("Cache-Control", "no-cache")

    def _require_origin(self, request: web.Request, origin: str | None) -> None:
        is_guarded = request.path.startswith(("/api/", SOCKETIO_PATH))
        if origin is None or not is_guarded or self._is_allowed(request, origin):
            return
        shown, host = origin[:200], self._own_host(request)[:200]
        left_out = self._refusals.admit(shown)
        if left_out is not None:
            add_to = "server.allowed_origins"
            _log.warning("origin.refused", origin=shown, host=host, add_to=add_to, left_out=left_out)
        raise ForbiddenError("this origin is not among server.allowed_origins")

    def _is_allowed(self, request: web.Request, origin: str) -> bool:
        return self._is_own(request, origin) or any(each.fullmatch(origin) for each in self._origins)

    def _is_own(self, request: web.Request, origin: str) -> bool:
        """Whether it is a page of this host: without TLS not where a trusted proxy says that TLS is used.

        Where no proxy is trusted there may be one all the same, so the host alone is compared.
        """
        scheme, _, host = origin.partition("://")
        if host == "" or host != self._own_host(request).lower():
            return False
        return scheme == "https" or (scheme == "http" and not self._is_known_secure(request))

    def _own_host(self, request: web.Request) -> str:
        host = request.headers.get("Host", "")
        return request.headers.get("X-Forwarded-Host", host) if self._is_proxied(request) else host

    def _is_known_secure(self, request: web.Request) -> bool:
        # The first of several is what the client used.
        proto = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
        return proto in ("https", "wss") and self._is_proxied(request)

    def _is_proxied(self, request: web.Request) -> bool:
        return self._is_trusted(request.remote or "")

    def _require_admission(self, request: web.Request) -> None:
        """Turn a handshake away: here a client's own growing backoff works, after CONNECT it would not."""
        if request.path != SOCKETIO_PATH or "sid" in request.query:
            return
        if self._health.is_draining:
            raise DrainingError("this server is shutting down", retry_after_ms=1000)
        if not self._health.can_admit:
            raise UnavailableError("the store does not answer", retry_after_ms=2000)
        if self._connections_per_min is not None:
            rate = Rate(self._connections_per_min / 60, self._connections_per_min)
            address = self.client_address(request)
            wait_s = self._limiter.take(("connect", address), rate, time.monotonic())
            if wait_s > 0:
                left_out = self._refusals.admit(("connect", address))
                if left_out is not None:
                    _log.warning("conn.refused", code="rate_limited", address=address, left_out=left_out)
                raise RateLimitedError("too many connections", retry_after_ms=int(wait_s * 1000) + 1)

    def _is_trusted(self, address: str) -> bool:
        if not self._proxies or not _is_address(address):
            return False
        parsed = ipaddress.ip_address(address)
        return any(parsed.version == network.version and parsed in network for network in self._proxies)


def is_own_fault(record: logging.LogRecord) -> bool:
    """A filter of aiohttp's log: a stack trace for whatever is not HTTP would let anybody fill the disk."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError | web.RequestPayloadError):
        return True
    reason = type(error).__name__
    left_out = _malformed.admit(reason)
    if left_out is not None:
        _log.info("http.malformed", reason=reason, left_out=left_out)
    return False


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _origin_pattern(origin: str) -> re.Pattern[str]:
    """`https://*.example.org` is every subdomain, at any depth; `:*` is every port."""
    escaped = re.escape(origin.lower()).replace(re.escape("*."), r"(?:[a-z0-9-]+\.)+")
    return re.compile(escaped.replace(re.escape(":*"), r"(?::\d+)?"))


def _of_http_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return error_response(TooLargeError("the body is too large"))
    if error.status == web.HTTPNotFound.status_code:
        return error_response(NotFoundError(f"there is nothing at {request.path[:200]}"))
    if error.status >= 400:  # noqa: PLR2004 - client and server errors
        view = ErrorView(code="invalid", message=error.reason)
        response = json_response({"error": view}, status=error.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    return error
