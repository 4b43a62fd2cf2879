"""What is taken out of the log: every secret, wherever it stands, and little else."""

import json
import time
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.redaction import redact, redact_text
from server.settings import Secret

# What no other part of a test holds, of the letters of a token of ours.
TOKENS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=8).map(
    lambda text: f"Zq{text}qZ"
)
JWTS = st.tuples(TOKENS, TOKENS, TOKENS).map(lambda parts: "eyJ" + ".".join(parts))
SECRET_KEYS = st.sampled_from(
    [
        *("token", "access_token", "refresh_token", "password", "secret", "authorization", "cookie", "auth"),
        *("Set-Cookie", "TOKEN", "X-Auth-Token", "new_password", "client_secret"),
    ]
)


class Login(msgspec.Struct):
    username: str
    password: str


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("token=hunter2")


class BrokenText(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("token=hunter2")


def around(secrets: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Anything JSON around a secret."""
    return st.recursive(
        secrets,
        lambda inner: (
            st.lists(inner | st.integers(), min_size=1, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.text("abc", min_size=1), inner, min_size=1, max_size=3)
        ),
        max_leaves=8,
    )


def test_values_under_secret_names_are_redacted_at_every_level() -> None:
    assert redact({"user": "ana", "auth": {"token": "hunter2"}, "list": [{"Password": 1, "n": 2}]}) == {
        "user": "ana",
        "auth": "[redacted]",
        "list": [{"Password": "[redacted]", "n": 2}],
    }
    assert redact({b"Cookie": b"hunter2"}) == {"b'Cookie'": "[redacted]"}


@given(name=SECRET_KEYS, token=TOKENS, data=st.data())
def test_no_token_under_a_secret_name_is_left(name: str, token: str, data: st.DataObject) -> None:
    value = data.draw(around(st.just({name: [token, {"deep": token}]})))
    assert token not in json.dumps(redact(value))


@given(st.data())
def test_no_jwt_is_left_in_any_text(data: st.DataObject) -> None:
    jwt = data.draw(JWTS)
    before, after = (
        data.draw(st.sampled_from(["", "Bearer ", "/?x=", "%20", '{"t":"', "a_", "eyJ", "("])),
        " end",
    )
    value = data.draw(around(st.just(before + jwt + after)))
    written = json.dumps(redact({"value": value, jwt: 1}))
    assert [part for part in jwt.split(".") if part in written] == []


@pytest.mark.parametrize(
    "template",
    [
        "GET /socket.io/?EIO=4&token={}&transport=websocket",
        "GET /?access_token={}",
        "refresh_token={} expired",
        "TOKEN = {}",
        "Login(username='a', password='{}')",
        '{{"password": "{}", "x": 1}}',
        "{{'secret': b'{}'}}",
        '"{{\\"token\\": \\"{}\\"}}"',
        "Authorization: Bearer {}",
        "authorization={}, host=x",
        "(b'Authorization', b'Bearer {}')",
        "Cookie: a=b; session={}; c=d",
        "Set-Cookie: session={}",
        "bearer {}",
        "mongodb://user:{}@host/db",
        "redis://:{}@host and more",
        "https://user:{}@host/path@x",
    ],
)
@given(token=TOKENS)
def test_no_token_is_left_where_texts_hold_them(template: str, token: str) -> None:
    for text in (template.format(token), f"line one\n{template.format(token)}\nline three"):
        assert token not in redact_text(text)
        assert token not in json.dumps(redact({"message": text, "list": [text], "bytes": text.encode()}))


@given(password=st.text())
def test_no_password_is_left_in_a_printed_payload(password: str) -> None:
    """Whatever quotes, brackets and escapes it holds."""
    payload = {"password": password}
    for text in (repr(payload), json.dumps(payload), json.dumps(payload, ensure_ascii=False)):
        assert redact_text(text).strip("{}")[1:] in ('password": [redacted]', "password': [redacted]")


@given(password=TOKENS)
def test_no_password_is_left_in_a_payload_printed_twice(password: str) -> None:
    text = json.dumps(json.dumps(json.dumps({"password": f'a" {password}', "x": 1})))
    assert password not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "the token has expired",
        "auth_expiring in 60 s",
        "GET /socket.io/?EIO=4&transport=polling",
        "https://chat.example.org:8443/rooms",
        "ana@example.org wrote: hola",
        "secretary of the board",
        "eyJust a word. and another",
        "",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact_text(text) == text


def test_other_values_stay_as_they_are() -> None:
    value = {"a": [1, 2.5, True, None, "é"], "b": {"seq": 41, "token_type": "Bearer", "authors": 2}}
    assert redact(value) == value


def test_objects_become_their_repr_without_secrets() -> None:
    assert redact({"login": Login("ana", "hunter2")}) == {
        "login": "Login(username='ana', password=[redacted])"
    }
    assert redact([Secret("hunter2"), HTTPStatus.OK]) == ["********", "<HTTPStatus.OK: 200>"]
    assert redact(ValueError("token=hunter2 no")) == "ValueError('token=[redacted] no')"


def test_what_cannot_be_printed_is_named() -> None:
    assert redact([Broken(), 10**5_000]) == ["<Broken without a repr>", "<int without a repr>"]
    assert redact([BrokenText("x"), float("nan"), float("-inf")]) == ["x", "nan", "-inf"]
    assert redact({Broken(): 1}) == {"<Broken without a repr>": 1}


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text() | st.binary() | st.builds(Broken),
        lambda inner: (
            st.lists(inner)
            | st.frozensets(st.text())
            | st.dictionaries(st.text() | st.binary() | st.integers(), inner)
        ),
    )
)
def test_the_result_is_json_whatever_the_value(value: object) -> None:
    json.loads(json.dumps(redact(value), allow_nan=False))


def test_a_value_that_contains_itself_ends() -> None:
    value: list[object] = [1]
    value.append(value)
    assert "[cut]" in json.dumps(redact(value))


def test_large_values_are_cut() -> None:
    wide = {str(number): [0] * 1_000 for number in range(1_000)}
    assert len(json.dumps(redact(wide))) < 20_000
    assert len(redact_text("x" * 10**6)) < 5_000
    assert redact_text("a" * 4_096) == "a" * 4_096


def test_a_secret_at_the_place_of_the_cut_is_not_left_in_half() -> None:
    """Cut first, `mongodb://user:hun` no longer looks like a password."""
    url = "mongodb://user:hunter2@host"
    for shift in range(len(url) + 1):
        text = "x" * (2_048 - shift) + " " + url + " " + "y" * 10_000
        assert "hunt" not in redact_text(text)


@pytest.mark.parametrize(
    "piece", ["eyJ", "eyJ.", "token=", "token='", "\\", "://a:", "a@", "cookie", "bearer ", 'secret\\"']
)
def test_a_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    """Quadratic time would be a minute; it takes a twentieth of a second."""
    text = piece * (200_000 // len(piece))
    start = time.perf_counter()
    redact_text(text)
    assert time.perf_counter() - start < 5
