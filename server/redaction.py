"""Takes secrets out of what is logged, in time linear in the text. What is in doubt is redacted."""

import math
import re
from collections.abc import Collection

from server.settings import mask_passwords

REDACTED = "[redacted]"

_SECRET_KEYS = frozenset(
    {
        "token",
        "access_token",
        "refresh_token",
        "password",
        "secret",
        "authorization",
        "cookie",
        "set_cookie",
        "auth",
    }
)
_SECRET_ENDINGS = ("_token", "_password", "_secret")
_MAX_DEPTH = 6
_MAX_VALUES = 500
_MAX_CHARS = 4_096
_MAX_INT_BITS = 256

_RUN = re.compile(r"[\w.-]+")
# `token=abc`, `'password': 'a b'`; from escaped quotes (JSON inside a string) to the end of the line.
_ASSIGNMENT = re.compile(
    r"""((?:token|password|secret)\\*["']?\s*[=:]\s*)"""
    r"""(?:b?"(?:\\.|[^"\\\r\n])*"?|b?'(?:\\.|[^'\\\r\n])*'?|\\+["'][^\r\n]*|[^\s&]+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(r"""((?:authorization|cookie)\\*["']?\s*[=:,]\s*)[^\r\n]+""", re.IGNORECASE)
_BEARER = re.compile(r"(bearer\s+)\S{8,}", re.IGNORECASE)


def redact(value: object) -> object:
    """A copy of JSON types alone, without secrets, limited in depth, number of values and length of texts."""
    return _Walk().value(value, _MAX_DEPTH)


def redact_text(text: str, *, max_chars: int = _MAX_CHARS) -> str:
    """A text without JWTs, URL passwords, the values of `token=…`, `password: …` and secret headers."""
    if "eyJ" in text:
        text = _RUN.sub(_without_jwt, text)
    text = mask_passwords(text)
    text = _HEADER.sub(rf"\1{REDACTED}", text)
    text = _ASSIGNMENT.sub(rf"\1{REDACTED}", text)
    text = _BEARER.sub(rf"\1{REDACTED}", text)
    # Cut last: half a secret would no longer look like one.
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    return f"{text[:half]}[{len(text) - 2 * half} characters cut]{text[-half:]}"


def _without_jwt(run: re.Match[str]) -> str:
    head, found, rest = run[0].partition("eyJ")
    return head + REDACTED if found and "." in rest else run[0]


class _Walk:
    """One walk through a value; counts what it visits, so that no value makes a line without end."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def value(self, value: object, depth: int) -> object:
        self._left -= 1
        if isinstance(value, dict | list | tuple | set | frozenset):
            return self._container(value, depth - 1) if depth > 0 else "[cut]"
        if isinstance(value, str):
            return redact_text(str.__str__(value))
        if value is None or type(value) is bool or _is_plain_number(value):
            return value
        return redact_text(_representation(value))

    def _container(self, values: Collection[object], depth: int) -> object:
        if not isinstance(values, dict):
            return [self.value(item, depth) for item in values if self._left > 0]
        return {
            str(self.value(key, 0)): REDACTED if _is_secret_key(key) else self.value(item, depth)
            for key, item in values.items()
            if self._left > 0
        }


def _is_secret_key(key: object) -> bool:
    name = key.decode("latin-1") if isinstance(key, bytes) else key
    if not isinstance(name, str):
        return False
    name = name.lower().replace("-", "_")
    return name in _SECRET_KEYS or name.endswith(_SECRET_ENDINGS)


def _is_plain_number(value: object) -> bool:
    # JSON has no NaN and no infinity, and Python refuses to print an integer of thousands of digits.
    if type(value) is int:
        return value.bit_length() <= _MAX_INT_BITS
    return type(value) is float and math.isfinite(value)


def _representation(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - any repr may fail, a log call may not
        return f"<{type(value).__name__} without a repr>"
