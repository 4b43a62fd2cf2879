import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from msgspec import UNSET

from server.domain.errors import (
    ChatError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    TokenExpiredError,
    TokenInvalidError,
    TokenRevokedError,
    UnauthenticatedError,
    UnavailableError,
)
from server.services.accounts import Signed
from server.services.notices import LoginEnded, ProfileChanged, Tell
from server.views import UserUpdated
from tests.harness import SECRET
from tests.services import Site, SiteRules, break_, open_site

PASSWORD = "correct horse"
MONTH_S = 30 * 24 * 3600


async def signed_up(site: Site, username: str = "Juan") -> Signed:
    return await site.accounts.register(username, PASSWORD, None)


def outside(site: Site, subject: object = "ana", *, iat: int | None = 0, **claims: Any) -> str:
    """A token of the site's own users; `iat` counts from now, None leaves it out."""
    now = int(site.clock.now_s)
    issued = {} if iat is None else {"iat": now + iat}
    return jwt.encode({"sub": subject, "exp": now + 900, **issued, **claims}, SECRET, algorithm="HS256")


async def refusal(site: Site, token: str) -> type[ChatError] | None:
    """Why an access token is refused; None when it is accepted."""
    try:
        await site.accounts.authenticate(token)
    except ChatError as error:
        return type(error)
    return None


async def test_signing_up_signs_in(site: Site) -> None:
    signed = await signed_up(site)
    identity = await site.accounts.authenticate(signed.access_token)
    assert (identity.user.username, identity.user.display_name) == ("juan", "Juan")
    assert identity.user.id == signed.user.id
    assert signed.user.id.startswith("~u")
    assert identity.expires_at == site.clock.now_s + signed.expires_in
    again = await site.accounts.login("JUAN", PASSWORD)
    assert again.user.id == signed.user.id
    assert (await site.accounts.authenticate(again.access_token)).login_id != identity.login_id


@pytest.mark.parametrize(
    ("username", "password", "display_name", "field"),
    [
        ("ju", PASSWORD, None, "username"),
        ("ju an", PASSWORD, None, "username"),
        ("juan", "short", None, "password"),
        ("juan", PASSWORD, " ", "display_name"),
    ],
)
async def test_an_account_that_breaks_a_rule_is_refused_by_its_field(
    site: Site, username: str, password: str, display_name: str | None, field: str
) -> None:
    with pytest.raises(InvalidError) as refused:
        await site.accounts.register(username, password, display_name)
    assert refused.value.field == field


async def test_a_username_is_given_once_whatever_its_case(site: Site) -> None:
    tries = await asyncio.gather(
        *(signed_up(site, name) for name in ("juan", "JUAN", "Juan")), return_exceptions=True
    )
    refused = [each for each in tries if isinstance(each, ConflictError)]
    assert [each.field for each in refused] == ["username", "username"]


async def test_an_unknown_name_and_a_wrong_password_are_refused_alike(site: Site) -> None:
    """By the same words, and after the same work: a hash is compared with in each case."""
    await signed_up(site)
    await site.people("ana")
    words = set()
    for username, password in (("nobody", PASSWORD), ("juan", "wrong"), ("ana", PASSWORD), ("ana", "")):
        with pytest.raises(UnauthenticatedError) as refused:
            await site.accounts.login(username, password)
        words.add((refused.value.message, refused.value.field))
    assert len(words) == 1
    assert [stored.startswith("$argon2id$") for stored in site.hasher.verified] == [True] * 4


async def test_without_a_token_nobody_is_let_in(site: Site) -> None:
    for nothing in (None, ""):
        with pytest.raises(UnauthenticatedError):
            await site.accounts.authenticate(nothing)


async def test_two_tabs_that_refresh_at_once_get_the_same_successor(site: Site) -> None:
    first = await signed_up(site)
    answers = await asyncio.gather(*(site.accounts.refresh(first.refresh_token) for _ in range(20)))
    assert len({each.refresh_token for each in answers}) == 1
    assert answers[0].refresh_token != first.refresh_token
    site.clock.advance(60)
    late = await site.accounts.refresh(first.refresh_token)
    assert late.refresh_token == answers[0].refresh_token
    assert await refusal(site, late.access_token) is None


async def test_a_refresh_token_used_again_too_late_ends_the_login(site: Site) -> None:
    first = await signed_up(site)
    second = await site.accounts.refresh(first.refresh_token)
    site.clock.advance(60.001)
    with pytest.raises(TokenRevokedError):
        await site.accounts.refresh(first.refresh_token)
    login_id = first.refresh_token.partition(".")[0]
    assert site.publisher.controls() == [LoginEnded(user_id=first.user.id, login_id=login_id)]
    with pytest.raises(TokenRevokedError):
        await site.accounts.refresh(second.refresh_token)
    assert await refusal(site, second.access_token) is TokenRevokedError


async def test_an_older_refresh_token_ends_the_login_at_any_time(site: Site) -> None:
    first = await signed_up(site)
    second = await site.accounts.refresh(first.refresh_token)
    third = await site.accounts.refresh(second.refresh_token)
    with pytest.raises(TokenRevokedError):
        await site.accounts.refresh(first.refresh_token)
    with pytest.raises(TokenRevokedError):
        await site.accounts.refresh(third.refresh_token)


async def test_each_refresh_begins_the_month_anew_and_after_it_there_is_none(site: Site) -> None:
    signed = await signed_up(site)
    for _ in range(2):
        site.clock.advance(MONTH_S - 1)
        signed = await site.accounts.refresh(signed.refresh_token)
    site.clock.advance(MONTH_S)
    for _ in range(2):
        with pytest.raises(TokenExpiredError):
            await site.accounts.refresh(signed.refresh_token)


async def test_a_logout_ends_one_login_and_leaves_the_others(site: Site) -> None:
    phone = await signed_up(site)
    laptop = await site.accounts.login("juan", PASSWORD)
    identity = await site.accounts.authenticate(phone.access_token)
    await site.accounts.logout(identity, everywhere=False)
    assert site.publisher.controls() == [LoginEnded(user_id=phone.user.id, login_id=identity.login_id)]
    assert await refusal(site, phone.access_token) is TokenRevokedError
    with pytest.raises(TokenRevokedError):
        await site.accounts.refresh(phone.refresh_token)
    assert await refusal(site, laptop.access_token) is None
    await site.accounts.refresh(laptop.refresh_token)


async def test_a_logout_everywhere_ends_every_login_and_later_ones_hold(site: Site) -> None:
    signed = [await signed_up(site), await site.accounts.login("juan", PASSWORD)]
    identity = await site.accounts.authenticate(signed[0].access_token)
    await site.accounts.logout(identity, everywhere=True)
    assert site.publisher.controls() == [LoginEnded(user_id=identity.user.id, login_id=None)]
    for each in signed:
        assert await refusal(site, each.access_token) is TokenRevokedError
        with pytest.raises(TokenRevokedError):
            await site.accounts.refresh(each.refresh_token)
    assert await refusal(site, (await site.accounts.login("juan", PASSWORD)).access_token) is None


async def test_a_logout_refuses_that_token_from_outside_and_no_other(site: Site) -> None:
    token, other = outside(site), outside(site, iat=-1)
    await site.accounts.logout(await site.accounts.authenticate(token), everywhere=False)
    assert await refusal(site, token) is TokenRevokedError
    assert await refusal(site, f"{token}=") is TokenInvalidError
    assert await refusal(site, other) is None


async def test_a_logout_everywhere_refuses_what_was_issued_until_that_second(site: Site) -> None:
    """Tokens from outside know whole seconds: one of the same second may be older than the logout."""
    tokens = {iat: outside(site, iat=iat) for iat in (-1, 0, 1, None)}
    identity = await site.accounts.authenticate(tokens[0])
    site.clock.advance(0.4)
    await site.accounts.logout(identity, everywhere=True)
    refused = {iat: await refusal(site, token) for iat, token in tokens.items()}
    assert refused == {-1: TokenRevokedError, 0: TokenRevokedError, 1: None, None: TokenRevokedError}


async def test_a_token_without_a_date_is_good_until_somebody_logs_out_everywhere(site: Site) -> None:
    assert await refusal(site, outside(site, iat=None)) is None


async def test_a_login_opens_the_account_of_its_own_user_alone(site: Site) -> None:
    juan, ana = await signed_up(site), await signed_up(site, "ana")
    ana_login = ana.refresh_token.partition(".")[0]
    now = int(site.clock.now_s)
    for user_id, login_id in (
        (juan.user.id, ana_login),
        (juan.user.id, "no such login"),
        ("~unobody", ana_login),
    ):
        forged = site.tokens.make_access(user_id, login_id, now=now)
        assert await refusal(site, forged) is TokenInvalidError


async def test_nobody_from_outside_becomes_a_built_in_account(site: Site) -> None:
    juan = await signed_up(site)
    identity = await site.accounts.authenticate(outside(site, juan.user.id, preferred_username="juan"))
    assert identity.user.id != juan.user.id
    assert identity.user.id.startswith("~s")


async def test_somebody_first_seen_gets_a_name_of_their_own(site: Site) -> None:
    """From the username, the name or the subject; one that is taken gets a suffix."""
    await signed_up(site, "juan")
    claims: dict[str, dict[str, Any]] = {
        "a1": {"preferred_username": "juan"},
        "a2": {"preferred_username": "??", "name": "Ana Pérez"},
        "a33": {},
        "42": {"preferred_username": 7, "name": "\t", "picture": "javascript:alert(1)"},
    }
    made = {
        subject: (await site.accounts.authenticate(outside(site, subject, **each))).user
        for subject, each in claims.items()
    }
    assert made["a1"].username.startswith("juan-")
    assert (made["a2"].username, made["a2"].display_name) == ("ana-perez", "Ana Pérez")
    assert made["a33"].username == "a33"
    assert (made["42"].username, made["42"].avatar_url) == ("user", None)
    assert (await site.accounts.authenticate(outside(site, 42))).user.id == "42"


async def test_one_person_seen_twice_at_once_is_made_once(site: Site) -> None:
    tokens = [outside(site, preferred_username="ana", name=name) for name in ("Ana", "Ana", "Ana P.")]
    identities = await asyncio.gather(*(site.accounts.authenticate(token) for token in tokens))
    assert {each.user.id for each in identities} == {"ana"}
    assert {each.user.username for each in identities} == {"ana"}


async def test_the_profile_follows_the_token(site: Site) -> None:
    await site.accounts.authenticate(outside(site, name="Ana"))
    await site.people("juan")
    room_id = await site.group("juan", "ana")
    site.publisher.forget()
    await site.accounts.authenticate(outside(site, name="Ana"))
    await site.accounts.authenticate(outside(site))
    assert site.publisher.notices == []
    identity = await site.accounts.authenticate(outside(site, name="Ana María", picture="https://x/a.png"))
    assert (identity.user.display_name, identity.user.avatar_url) == ("Ana María", "https://x/a.png")
    changed, told = site.publisher.notices
    assert changed == ProfileChanged(user_id="ana")
    assert isinstance(told, Tell)
    assert isinstance(told.data, UserUpdated)
    assert (told.event, told.data.user.display_name) == ("user_updated", "Ana María")
    assert (told.rooms, told.users) == (frozenset([room_id]), frozenset(["ana"]))


async def test_only_what_is_given_of_a_profile_is_changed(site: Site) -> None:
    juan = (await signed_up(site)).user
    shown = await site.accounts.update_profile(juan.id, UNSET, "https://x/j.png")
    assert (shown.display_name, shown.avatar_url) == ("Juan", "https://x/j.png")
    shown = await site.accounts.update_profile(juan.id, " Juan P. ", UNSET)
    assert (shown.display_name, shown.avatar_url) == ("Juan P.", "https://x/j.png")
    assert (await site.accounts.update_profile(juan.id, UNSET, None)).avatar_url is None
    assert await site.accounts.me(juan.id) == (await site.views.users([juan.id]))[juan.id]
    for wrong in ("javascript:alert(1)", "http://" + "a" * 2048, ""):
        with pytest.raises(InvalidError) as refused:
            await site.accounts.update_profile(juan.id, UNSET, wrong)
        assert refused.value.field == "avatar_url"


async def test_a_search_goes_through_all_pages(site: Site) -> None:
    await site.people(*(f"ana{n}" for n in range(5)), "juan")
    found, after = [], ""
    for _ in range(3):
        page, following = await site.accounts.search("ana", after, 2)
        found += [user.username for user in page]
        after = following or ""
    assert found == [f"ana{n}" for n in range(5)]
    assert after == ""


@pytest.fixture
async def outside_only(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, SiteRules(has_accounts=False)) as opened:
        yield opened


async def test_a_site_that_signs_people_in_elsewhere_has_no_accounts(outside_only: Site) -> None:
    accounts = outside_only.accounts
    for refused in (
        accounts.register("juan", PASSWORD, None),
        accounts.login("juan", PASSWORD),
        accounts.refresh(outside_only.tokens.make_refresh("login", 0)),
    ):
        with pytest.raises(ForbiddenError):
            await refused
    built_in = outside_only.tokens.make_access("~uana", "login", now=int(outside_only.clock.now_s))
    assert await refusal(outside_only, built_in) is TokenInvalidError
    assert await refusal(outside_only, outside(outside_only)) is None


async def test_a_logout_of_unknown_outcome_ends_the_sockets_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for; and again when the outcome is certain, for whoever connected meanwhile."""
    site.clock.drive(monkeypatch)
    signed = await site.accounts.register("juan", "long password", None)
    identity = await site.accounts.authenticate(signed.access_token)
    mend = break_(site.storage, "revoke_login")
    with pytest.raises(UnavailableError):
        await site.accounts.logout(identity, everywhere=False)
    mend()
    ended = LoginEnded(user_id=identity.user.id, login_id=identity.login_id)
    await site.clock.elapse(0)
    assert site.publisher.controls() == [ended]
    await site.clock.elapse(30)
    assert site.publisher.controls() == [ended, ended]


async def test_a_profile_of_unknown_outcome_is_read_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.clock.drive(monkeypatch)
    await site.people("juan")
    assert (await site.directory.get_profile("juan")).display_name == "Juan"
    await site.storage.update_user("juan", display_name="Juan Pérez")
    mend = break_(site.storage, "update_user")
    with pytest.raises(UnavailableError):
        await site.accounts.update_profile("juan", "Juan Pérez", UNSET)
    mend()
    await site.clock.elapse(0)
    assert (await site.directory.get_profile("juan")).display_name == "Juan Pérez"


async def test_a_page_of_people_is_within_the_limit_of_an_answer(site: Site) -> None:
    for number in range(100):
        await site.people(f"user{number:03}")
        await site.storage.update_user(f"user{number:03}", avatar_url="https://" + '"' * 2040)
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = await site.accounts.search("user", cursor, 100)
        assert len(msgspec.json.encode(page)) < 256 * 1024
        found += [user.username for user in page]
    assert found == [f"user{number:03}" for number in range(100)]


@pytest.mark.parametrize(
    "url", ["https://a b", "https://a\u0001", "https://é", "javascript:alert(1)", "https://a\n"]
)
async def test_a_picture_is_named_by_a_plain_web_address(site: Site, url: str) -> None:
    await site.people("juan")
    with pytest.raises(InvalidError) as refused:
        await site.accounts.update_profile("juan", UNSET, url)
    assert refused.value.field == "avatar_url"
