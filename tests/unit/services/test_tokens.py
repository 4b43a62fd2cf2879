import base64
import hmac
import json
import string
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from server.domain.errors import TokenExpiredError, TokenInvalidError
from server.services.tokens import ClaimNames, Tokens
from tests.harness import SECRET

NOW = 1_769_941_800
LEEWAY_S = 5

TOKENS = Tokens(SECRET, claim_names=ClaimNames(), leeway_s=LEEWAY_S)
ACCESS = TOKENS.make_access("~uana", "login", now=NOW)
REFRESH = TOKENS.make_refresh("login", 3)
ALPHABET = string.ascii_letters + string.digits + "-_.=+/ \n\0é"


def signed(**claims: Any) -> str:
    """A token as a site with its own users signs it; a claim of None is left out."""
    filled = {"sub": "ana", "exp": NOW + 900, **claims}
    given_claims = {name: value for name, value in filled.items() if value is not None}
    return encode({"alg": "HS256", "typ": "JWT"}, given_claims, SECRET)


def encode(header: dict[str, Any], claims: dict[str, Any], key: bytes | str) -> str:
    """Sign whatever it is; the library refuses to sign some of what others may have signed."""
    parts = [part(json.dumps(each).encode()) for each in (header, claims)]
    raw = key.encode() if isinstance(key, str) else key
    return ".".join([*parts, part(hmac.digest(raw, ".".join(parts).encode(), "sha256"))])


def part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def mutated(token: str, at: int, how: str, char: str) -> str:
    at %= len(token) + 1
    return token[:at] + ("" if how == "drop" else char) + token[at + (how != "insert") :]


changes = st.lists(
    st.tuples(
        st.integers(-100, 1000), st.sampled_from(["replace", "insert", "drop"]), st.sampled_from(ALPHABET)
    ),
    min_size=1,
    max_size=3,
)


def test_a_built_in_token_says_whose_it_is_and_of_which_login() -> None:
    claims = TOKENS.read_access(ACCESS, now=NOW)
    assert (claims.subject, claims.login_id, claims.is_built_in) == ("~uana", "login", True)
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + 900)


def test_a_token_from_outside_brings_the_profile() -> None:
    token = signed(preferred_username="ana", name="Ana", picture="https://example.org/a.png", iat=NOW)
    claims = TOKENS.read_access(token, now=NOW)
    assert (claims.subject, claims.is_built_in, claims.issued_at) == ("ana", False, NOW)
    assert (claims.username, claims.display_name, claims.avatar_url) == (
        "ana",
        "Ana",
        "https://example.org/a.png",
    )


@given(changes)
@example([(-1, "insert", "=")])
def test_a_changed_token_is_never_accepted(edits: list[tuple[int, str, str]]) -> None:
    """Not even where its signature decodes to the same bytes: one login has one token."""
    for token in (ACCESS, signed(iat=NOW)):
        changed = token
        for edit in edits:
            changed = mutated(changed, *edit)
        assume(changed != token)
        with pytest.raises(TokenInvalidError):
            TOKENS.read_access(changed, now=NOW)


@given(changes)
@example([(6, "insert", "0")])
def test_a_changed_refresh_token_is_never_accepted(edits: list[tuple[int, str, str]]) -> None:
    changed = REFRESH
    for edit in edits:
        changed = mutated(changed, *edit)
    assume(changed != REFRESH)
    with pytest.raises(TokenInvalidError):
        TOKENS.read_refresh(changed)


@given(st.text(max_size=60))
def test_what_is_no_token_at_all_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalidError):
        TOKENS.read_access(text, now=NOW)
    with pytest.raises(TokenInvalidError):
        TOKENS.read_refresh(text)


@given(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.integers(0, 999_999_999))
def test_a_refresh_token_is_read_as_it_was_made(login_id: str, n: int) -> None:
    token = TOKENS.make_refresh(login_id, n)
    assert TOKENS.read_refresh(token) == (login_id, n)
    assert TOKENS.make_refresh(login_id, n) == token


def test_each_key_serves_its_own_purpose() -> None:
    """A site that signs its own tokens cannot sign for built-in accounts, nor a refresh token give access."""
    derived = {
        name: hmac.digest(SECRET.encode(), f"tertulia {name} token".encode(), "sha256")
        for name in ("access", "refresh")
    }
    built_in = {"sub": "~uana", "fam": "login", "exp": NOW + 900}
    header = {"alg": "HS256", "kid": "tertulia"}
    assert TOKENS.read_access(encode(header, built_in, derived["access"]), now=NOW).login_id == "login"
    for forged in (
        encode(header, built_in, SECRET),
        encode(header, built_in, derived["refresh"]),
        encode({"alg": "HS256"}, built_in, derived["access"]),
        REFRESH,
    ):
        with pytest.raises(TokenInvalidError):
            TOKENS.read_access(forged, now=NOW)
    mac = part(hmac.digest(derived["access"], b"login.3", "sha256"))
    for forged in (f"login.3.{mac}", f"login.4.{REFRESH.rpartition('.')[2]}", ACCESS):
        with pytest.raises(TokenInvalidError):
            TOKENS.read_refresh(forged)


@pytest.mark.parametrize("algorithm", ["none", "NONE", "HS384", "HS512", "RS256", None, 7])
def test_no_other_algorithm_is_taken(algorithm: object) -> None:
    claims = {"sub": "ana", "exp": NOW + 900}
    body = encode({"alg": algorithm, "typ": "JWT"}, claims, SECRET)
    for token in (body, body.rpartition(".")[0] + "."):
        with pytest.raises(TokenInvalidError):
            TOKENS.read_access(token, now=NOW)


def test_one_instant_decides_whether_a_token_has_expired() -> None:
    for token in (ACCESS, signed()):
        end = NOW + 900 + LEEWAY_S
        assert TOKENS.read_access(token, now=end - 0.001).expires_at == NOW + 900
        with pytest.raises(TokenExpiredError):
            TOKENS.read_access(token, now=end)


@pytest.mark.parametrize("exp", [None, "soon", True, -1, 1e300, 10**15, {}])
def test_a_token_needs_an_end(exp: object) -> None:
    with pytest.raises(TokenInvalidError):
        TOKENS.read_access(signed(exp=exp), now=NOW)


@pytest.mark.parametrize(
    ("kinds", "is_accepted"),
    [
        ({}, True),
        ({"token_type": "access"}, True),
        ({"typ": "Bearer"}, True),
        ({"typ": "at+jwt"}, True),
        ({"typ": "ID"}, False),
        ({"token_type": "refresh"}, False),
        ({"token_type": ["access"]}, False),
        ({"token_type": "access", "typ": "Refresh"}, False),
        ({"token_type": "refresh", "typ": "Bearer"}, False),
    ],
)
def test_a_token_for_something_else_is_refused(kinds: dict[str, Any], *, is_accepted: bool) -> None:
    token = signed(**kinds)
    if is_accepted:
        assert TOKENS.read_access(token, now=NOW).subject == "ana"
    else:
        with pytest.raises(TokenInvalidError):
            TOKENS.read_access(token, now=NOW)


@pytest.mark.parametrize(
    ("subject", "read"),
    [("ana", "ana"), (42, "42"), (0, "0"), ("a" * 1024, "a" * 1024), ("ñandú ✓", "ñandú ✓")],
)
def test_the_subject_may_be_a_number(subject: object, read: str) -> None:
    assert TOKENS.read_access(signed(sub=subject), now=NOW).subject == read


@pytest.mark.parametrize("subject", [None, "", True, 1.5, ["ana"], "a" * 1025, "a\0b", "\ud800"])
def test_a_token_must_name_somebody(subject: object) -> None:
    with pytest.raises(TokenInvalidError):
        TOKENS.read_access(signed(sub=subject), now=NOW)


def test_issuer_and_audience_are_required_where_they_are_configured() -> None:
    strict = Tokens(SECRET, claim_names=ClaimNames(), issuer="https://id", audience=("chat", "site"))
    for claims in ({"aud": "chat"}, {"aud": ["other", "site"]}):
        assert strict.read_access(signed(iss="https://id", **claims), now=NOW).subject == "ana"
    for wrong in ({}, {"iss": "https://id"}, {"aud": "chat"}, {"iss": "https://no", "aud": "chat"}):
        with pytest.raises(TokenInvalidError):
            strict.read_access(signed(**wrong), now=NOW)
    own = strict.make_access("~uana", "login", now=NOW)
    assert strict.read_access(own, now=NOW).is_built_in
    assert strict.read_access(strict.make_outside("ana", now=NOW), now=NOW).subject == "ana"
    assert TOKENS.read_access(signed(iss="anybody", aud="anything"), now=NOW).subject == "ana"


def test_the_claims_may_have_other_names() -> None:
    named = Tokens(
        SECRET, claim_names=ClaimNames(id="uid", username="login", display_name="full", avatar_url="pic")
    )
    token = signed(sub=None, uid=7, login="ana", full="Ana", pic="http://x/")
    claims = named.read_access(token, now=NOW)
    assert (claims.subject, claims.username, claims.display_name, claims.avatar_url) == (
        "7",
        "ana",
        "Ana",
        "http://x/",
    )


def test_a_token_from_outside_is_a_login_of_its_own() -> None:
    tokens = [signed(iat=NOW), signed(iat=NOW), signed(iat=NOW + 1)]
    one, same, other = (TOKENS.read_access(token, now=NOW).login_id for token in tokens)
    assert one == same != other
