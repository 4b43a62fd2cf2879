"""Whoever was answered `unavailable` registers again, and nobody learns a password by it."""

from typing import Any

import pytest

from server.domain.errors import ConflictError, UnavailableError
from server.services import accounts
from tests.services import Site, break_

PASSWORD = "correct horse"


async def register(site: Site, username: str = "juan", password: str = PASSWORD) -> str:
    """The id of the account."""
    return (await site.accounts.register(username, password, None)).user.id


async def fail_to_register(site: Site, method: str, username: str = "juan") -> None:
    """The store goes away at this call of it."""
    mend = break_(site.storage, method)
    with pytest.raises(UnavailableError):
        await register(site, username)
    mend()


def lose_answer(site: Site, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The next call is done, and its answer comes too late."""
    original = getattr(site.storage, method)

    async def late(*args: Any) -> None:
        monkeypatch.undo()
        await original(*args)
        raise UnavailableError("the store does not answer in time")

    monkeypatch.setattr(site.storage, method, late)


@pytest.mark.parametrize("method", ["create_user", "create_login"])
async def test_a_registration_that_may_have_been_done_can_be_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    lose_answer(site, monkeypatch, method)
    with pytest.raises(UnavailableError):
        await register(site)
    for broken in ("find_credentials", "create_login"):
        await fail_to_register(site, broken)
    made = await register(site, "JUAN")
    assert (await site.accounts.login("juan", PASSWORD)).user.id == made
    with pytest.raises(ConflictError):
        await register(site)


async def test_a_registration_that_was_not_done_can_be_repeated(site: Site) -> None:
    await fail_to_register(site, "create_user")
    made = await register(site)
    assert (await site.accounts.login("juan", PASSWORD)).user.id == made


async def test_a_repeat_with_another_password_is_refused_and_so_is_all_after_it(site: Site) -> None:
    await fail_to_register(site, "create_login")
    for password in ("wrong horse", PASSWORD, PASSWORD):
        with pytest.raises(ConflictError):
            await register(site, password=password)
    assert len(site.hasher.verified) == 1
    assert (await site.accounts.login("juan", PASSWORD)).user.username == "juan"


@pytest.mark.parametrize("method", ["create_user", "find_credentials"])
async def test_no_password_of_an_account_that_was_there_is_compared(site: Site, method: str) -> None:
    """Not even when the store was away from whoever tries to register it again."""
    await register(site)
    await fail_to_register(site, method)
    for _ in range(2):
        with pytest.raises(ConflictError):
            await register(site)
    assert site.hasher.verified == []


async def test_what_was_not_answered_is_remembered_so_often(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "_MOST_UNANSWERED", 2)
    for username in ("juan", "ana", "eva"):
        await fail_to_register(site, "create_login", username)
    with pytest.raises(ConflictError):
        await register(site, "juan")
    for username in ("ana", "eva"):
        assert await register(site, username)
