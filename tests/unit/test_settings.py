"""The tree of the settings: its values, and that it never shows a secret."""

import copy
import json
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.settings import (
    MASK,
    AuthSettings,
    ClusterSettings,
    DatabaseSettings,
    Secret,
    ServerSettings,
    Settings,
    mask_passwords,
    masked,
)

SECRET = "correct horse battery staple 0123456789"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().server.port = 1  # type: ignore[misc]  # what the test is about


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("localhost", "http://localhost:9000"),
        ("::1", "http://[::1]:9000"),
    ],
)
def test_the_address_that_is_shown_can_be_opened(host: str, url: str) -> None:
    assert ServerSettings(host=host).url(9000) == url


def test_a_secret_shows_itself_only_when_asked() -> None:
    settings = Settings(auth=AuthSettings(secret=Secret(SECRET)))
    shown = [
        repr(settings),
        str(settings),
        f"{settings.auth.secret}",
        repr(settings.auth),
        str(masked(settings)),
    ]
    assert [text for text in shown if SECRET in text] == []
    assert all(MASK in text for text in shown)
    assert settings.auth.secret is not None
    assert settings.auth.secret.reveal() == SECRET


def test_a_secret_is_not_encoded_by_accident() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(Settings(auth=AuthSettings(secret=Secret(SECRET))))


def test_secrets_are_equal_by_their_text_and_survive_a_copy() -> None:
    secret = Secret(SECRET)
    assert secret == Secret(SECRET)
    assert secret != Secret(SECRET + "x")
    assert secret != SECRET
    assert len({secret, Secret(SECRET)}) == 1
    assert copy.deepcopy(secret) == secret
    assert pickle.loads(pickle.dumps(secret)) == secret  # noqa: S301 - what was pickled in the same line


def test_masked_settings_are_json_of_every_key() -> None:
    assert json.loads(json.dumps(masked(Settings()))) == masked(Settings())
    assert masked(Settings())["cluster"] == {"url": "memory://"}


def test_passwords_of_urls_are_masked_in_every_text() -> None:
    url = "redis://user:hunter2@host:6379/0"
    settings = Settings(
        cluster=ClusterSettings(url=url),
        database=DatabaseSettings(url=url.replace("redis", "mongodb")),
        server=ServerSettings(allowed_origins=(url,)),
    )
    assert "hunter2" not in repr(settings)
    assert masked(settings.cluster) == {"url": f"redis://user:{MASK}@host:6379/0"}


@given(
    before=st.sampled_from(["", "(", "sqlite:////a/b,", "see http://h/p and "]),
    user=st.text(st.characters(exclude_characters=":/@", exclude_categories=["Z", "C"])),
    password=st.text(st.characters(exclude_categories=["Z", "C"])),
)
def test_no_password_of_a_url_is_left(before: str, user: str, password: str) -> None:
    """Typed in raw, with any sign but white space."""
    assert mask_passwords(f"{before}redis://{user}:{password}@host/0 end") == (
        f"{before}redis://{user}:{MASK}@host/0 end"
    )


@pytest.mark.parametrize(
    "text",
    ["sqlite:////a:b@c", "https://h:80/x", "https://user@h/x", "memory://", "a@b:c", "no url", "x:// y:z@h"],
)
def test_a_text_without_passwords_stays_as_it_is(text: str) -> None:
    assert mask_passwords(text) == text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "mongodb://h/chat?tls=true&tlsCertificateKeyFilePassword=hunter2&replicaSet=a",
            f"mongodb://h/chat?tls=true&tlsCertificateKeyFilePassword={MASK}&replicaSet=a",
        ),
        (
            "mongodb://u:hunter2@h/?AUTHMECHANISMPROPERTIES=AWS_SESSION_TOKEN:hunter2;authSource=b",
            f"mongodb://u:{MASK}@h/?AUTHMECHANISMPROPERTIES={MASK};authSource=b",
        ),
        ("redis://h:1/0?ssl_password=hunter2", f"redis://h:1/0?ssl_password={MASK}"),
        ("mongodb://h/?password=a&hunter2&tls=true", f"mongodb://h/?password={MASK}&{MASK}&tls=true"),
    ],
)
def test_no_option_of_a_url_that_is_a_secret_is_left(url: str, shown: str) -> None:
    assert mask_passwords(f"see {url} and go") == f"see {shown} and go"
    assert mask_passwords(shown) == shown


def test_accounts_are_on_unless_switched_off() -> None:
    enabled = [AuthSettings(accounts=accounts).accounts_enabled for accounts in (None, True, False)]
    assert enabled == [True, True, False]


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///var/x.db", "var/x.db"), ("sqlite:////srv/x.db", "/srv/x.db")]
)
def test_three_slashes_are_relative_and_four_absolute(url: str, path: str) -> None:
    assert DatabaseSettings(url=url).path.as_posix() == path
