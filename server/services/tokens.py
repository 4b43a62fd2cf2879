"""JWTs and refresh tokens: made and read here, and nowhere else. No store, no clock: instants are arguments.

Built-in access tokens are signed with a key derived from `auth.secret` and name it in `kid`; every other
token must be signed with `auth.secret` itself. Each key is bound to HS256.
"""

import base64
import hashlib
import hmac
import re
from typing import Any

import jwt
from msgspec import Struct

from server.domain.errors import TokenExpiredError, TokenInvalidError

_ALGORITHM = "HS256"
_BUILT_IN_KEY_ID = "tertulia"
_ACCESS_TYPES = frozenset({"access", "bearer", "at+jwt"})
_MOST_TOKEN_CHARS = 16_384
_MOST_SUBJECT_CHARS = 1_024
_LATEST_INSTANT = 253_402_300_799
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class ClaimNames(Struct, frozen=True, kw_only=True):
    """Which claim of a token from outside holds what."""

    id: str = "sub"
    username: str = "preferred_username"
    display_name: str = "name"
    avatar_url: str = "picture"


class Claims(Struct, frozen=True, kw_only=True):
    """What a valid access token says. Instants are seconds since the epoch.

    `login_id` is the login of a built-in account; for a token from outside it stands for that very token.
    """

    subject: str
    is_built_in: bool
    login_id: str
    expires_at: int
    issued_at: int | None = None
    username: str | None = None
    display_name: str | None = None
    avatar_url: str | None = None


class Tokens:
    """Signs with keys derived from `secret`; verifies against them and against `secret` itself."""

    def __init__(
        self,
        secret: str,
        *,
        claim_names: ClaimNames,
        issuer: str | None = None,
        audience: tuple[str, ...] = (),
        leeway_s: int = 0,
        access_ttl_s: int = 900,
    ) -> None:
        self._outside_key = secret.encode()
        self._access_key = _derived(secret, b"tertulia access token")
        self._refresh_key = _derived(secret, b"tertulia refresh token")
        self._names = claim_names
        self._issuer = issuer
        self._audience = audience
        self.leeway_s = leeway_s
        self.access_ttl_s = access_ttl_s

    def make_access(self, user_id: str, login_id: str, *, now: int) -> str:
        """An access token of a built-in account."""
        claims = {"sub": user_id, "fam": login_id, "iat": now, "exp": now + self.access_ttl_s}
        headers = {"kid": _BUILT_IN_KEY_ID, "typ": "at+jwt"}
        return jwt.encode(claims, self._access_key, algorithm=_ALGORITHM, headers=headers)

    def make_outside(self, subject: str, *, now: int) -> str:
        """An access token as a site with its own users would sign it."""
        claims = {self._names.id: subject, "iat": now, "exp": now + self.access_ttl_s}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audience:
            claims["aud"] = self._audience[0]
        return jwt.encode(claims, self._outside_key, algorithm=_ALGORITHM)

    def make_refresh(self, login_id: str, n: int) -> str:
        """The refresh token of a login at its rotation `n`: always the same."""
        return f"{login_id}.{n}.{self._refresh_mac(login_id, n)}"

    def read_refresh(self, token: str) -> tuple[str, int]:
        """(login id, n). Raises TokenInvalidError."""
        login_id, _, rest = token.partition(".")
        number = rest.partition(".")[0]
        is_number = number.isascii() and number.isdigit() and len(number) <= 9  # noqa: PLR2004 - more is no rotation
        if len(token) > _MOST_TOKEN_CHARS or not is_number or not token.isascii():
            raise TokenInvalidError("this is not a refresh token")
        if not hmac.compare_digest(token, self.make_refresh(login_id, int(number))):
            raise TokenInvalidError("this is not a refresh token")
        return login_id, int(number)

    def read_access(self, token: str, *, now: float) -> Claims:
        """What the token says. Raises TokenInvalidError, or TokenExpiredError from `exp` + leeway on."""
        is_built_in = self._is_built_in(token)
        payload = self._payload(token, is_built_in=is_built_in)
        expires_at = self._instant(payload, "exp")
        if expires_at is None or not _token_types(payload) <= _ACCESS_TYPES:
            raise TokenInvalidError("the token is not an access token")
        if now >= expires_at + self.leeway_s:
            raise TokenExpiredError("the token has expired")
        if is_built_in:
            return Claims(
                subject=_text(payload.get("sub")) or "",
                is_built_in=True,
                login_id=_text(payload.get("fam")) or "",
                expires_at=expires_at,
                issued_at=self._instant(payload, "iat"),
            )
        names = self._names
        return Claims(
            subject=_subject(payload.get(names.id)),
            is_built_in=False,
            login_id="~t" + hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest(),
            expires_at=expires_at,
            issued_at=self._instant(payload, "iat"),
            username=_text(payload.get(names.username)),
            display_name=_text(payload.get(names.display_name)),
            avatar_url=_text(payload.get(names.avatar_url)),
        )

    def _refresh_mac(self, login_id: str, n: int) -> str:
        digest = hmac.digest(self._refresh_key, f"{login_id}.{n}".encode(), "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    @staticmethod
    def _is_built_in(token: str) -> bool:
        # The library would take padding, too: two texts for one login, of which only one could be revoked.
        if len(token) > _MOST_TOKEN_CHARS or not _JWT.fullmatch(token):
            raise TokenInvalidError("this is not a token")
        try:
            return jwt.get_unverified_header(token).get("kid") == _BUILT_IN_KEY_ID
        except Exception:  # noqa: BLE001 - whatever a forged header breaks, it is no token
            raise TokenInvalidError("this is not a token") from None

    def _payload(self, token: str, *, is_built_in: bool) -> dict[str, Any]:
        key = self._access_key if is_built_in else self._outside_key
        issuer = None if is_built_in else self._issuer
        audience = None if is_built_in or not self._audience else self._audience
        checks: dict[str, Any] = {
            "require": ["exp"],
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": True,
            "verify_sub": False,
            "verify_jti": False,
            "verify_aud": audience is not None,
            "verify_iss": issuer is not None,
        }
        try:
            return dict(
                jwt.decode(
                    token,
                    key,
                    algorithms=[_ALGORITHM],
                    issuer=issuer,
                    audience=audience,
                    leeway=self.leeway_s,
                    options=checks,  # type: ignore[arg-type]  # the library's TypedDict lacks no key used here
                )
            )
        except Exception:  # noqa: BLE001 - whatever breaks, the token is not accepted; no detail helps an attacker
            raise TokenInvalidError("the token cannot be accepted") from None

    @staticmethod
    def _instant(payload: dict[str, Any], claim: str) -> int | None:
        value = payload.get(claim)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return int(value) if 0 <= value <= _LATEST_INSTANT else None


def _derived(secret: str, purpose: bytes) -> bytes:
    return hmac.digest(secret.encode(), purpose, "sha256")


def _token_types(payload: dict[str, Any]) -> set[str]:
    return {str(payload[claim]).lower() for claim in ("token_type", "typ") if claim in payload}


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    try:
        return None if b"\x00" in value.encode() else value
    except UnicodeEncodeError:
        return None


def _subject(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    text = _text(value)
    if text is None or len(text) > _MOST_SUBJECT_CHARS:
        raise TokenInvalidError("the token names nobody")
    return text
