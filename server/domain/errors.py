"""The one tree of errors that a client may see; each class is one code of the contract."""

from typing import ClassVar


class ChatError(Exception):
    """An answer other than success.

    `message` is shown to the client, so it never holds secrets or internals. `field` names the offending
    field of the payload; `retry_after_ms` is how long a client should wait before it repeats the call.
    """

    code: ClassVar[str]
    http_status: ClassVar[int]
    doc: ClassVar[str]

    def __init__(self, message: str, *, field: str | None = None, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms


class UnauthenticatedError(ChatError):
    """No token, or wrong credentials."""

    code, http_status = "unauthenticated", 401
    doc = "No token was given, or the credentials are wrong. Log in."


class TokenInvalidError(ChatError):
    """The token is not one of ours or of a configured issuer."""

    code, http_status = "token_invalid", 401
    doc = "The token cannot be accepted: malformed, a wrong signature, issuer, audience or type. Log in."


class TokenRevokedError(ChatError):
    """The login was ended before its token expired."""

    code, http_status = "token_revoked", 401
    doc = "The login was ended, by a log-out or because an old refresh token was used again. Log in."


class TokenExpiredError(ChatError):
    """The token is past its `exp`."""

    code, http_status = "token_expired", 401
    doc = "The token is past its time. Refresh it and repeat."


class ForbiddenError(ChatError):
    """The caller may see the thing but not do this to it."""

    code, http_status = "forbidden", 403
    doc = "You may not do this. Show it; do not retry."


class NotFoundError(ChatError):
    """There is no such thing, or the caller may not know of it."""

    code, http_status = "not_found", 404
    doc = "There is no such thing, or you may not see it. Show it; do not retry."


class InvalidError(ChatError):
    """The payload breaks the contract; `field` says where."""

    code, http_status = "invalid", 422
    doc = "The payload breaks the contract (`field` says where). The client has a bug or another version."


class UnknownEventError(ChatError):
    """The event is not one of the contract."""

    code, http_status = "unknown_event", 404
    doc = "The server knows no such event. The client has a bug or another version."


class TooLargeError(ChatError):
    """An HTTP body over the packet limit."""

    code, http_status = "too_large", 413
    doc = "The HTTP body is over the packet limit. On a websocket the connection is closed with 1009 instead."


class ConflictError(ChatError):
    """The `client_msg_id` was used for something else, or the thing is taken."""

    code, http_status = "conflict", 409
    doc = "The client_msg_id stands for another message, or the name is taken. Take a new one."


class RateLimitedError(ChatError):
    """Too much, too fast; `retry_after_ms` says when to repeat."""

    code, http_status = "rate_limited", 429
    doc = "Too many calls. Repeat the same client_msg_id after retry_after_ms."


class UnavailableError(ChatError):
    """The store or the bus did not answer in time; the outcome may be unknown."""

    code, http_status = "unavailable", 503
    doc = "The server cannot do it now; it may have been done. Repeat the same client_msg_id later."


class DrainingError(ChatError):
    """This server is going away."""

    code, http_status = "draining", 503
    doc = "This server is shutting down. Reconnect and repeat the same client_msg_id."


class InternalError(ChatError):
    """A bug; `error_id` finds the stack trace in the log."""

    code, http_status = "internal", 500
    doc = "The server has a bug. Report it with the error_id."

    def __init__(self, error_id: str) -> None:
        super().__init__("something went wrong on the server")
        self.error_id = error_id


ERRORS: tuple[type[ChatError], ...] = (
    UnauthenticatedError,
    TokenInvalidError,
    TokenRevokedError,
    TokenExpiredError,
    ForbiddenError,
    NotFoundError,
    InvalidError,
    UnknownEventError,
    TooLargeError,
    ConflictError,
    RateLimitedError,
    UnavailableError,
    DrainingError,
    InternalError,
)
