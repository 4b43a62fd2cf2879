import asyncio
from collections.abc import Iterator

import pytest

from server.domain.errors import InvalidError, RateLimitedError
from server.services.passwords import Passwords
from tests.services import CountingHasher


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
def passwords(hasher: CountingHasher) -> Iterator[Passwords]:
    made = Passwords(hasher)
    yield made
    made.close()


async def test_a_password_is_known_by_its_hash_alone(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert "correct horse" not in stored
    assert stored != await passwords.hash("correct horse")
    assert await passwords.verify("correct horse", stored)
    assert not await passwords.verify("correct hors", stored)


async def test_an_account_without_a_password_costs_as_much_and_is_never_opened(
    passwords: Passwords, hasher: CountingHasher
) -> None:
    """Not by any password: neither time nor answer tells whether the account is there."""
    for password in ("correct horse", "no account has this hash"):
        assert not await passwords.verify(password, None)
    assert [stored.startswith("$argon2id$") for stored in hasher.verified] == [True, True]


async def test_a_damaged_hash_opens_nothing(passwords: Passwords) -> None:
    assert not await passwords.verify("correct horse", "not a hash")


@pytest.mark.parametrize("length", [7, 129])
async def test_a_password_has_8_to_128_characters(passwords: Passwords, length: int) -> None:
    with pytest.raises(InvalidError) as refused:
        await passwords.hash("é" * length)
    assert refused.value.field == "password"
    assert await passwords.hash("é" * min(max(length, 8), 128))


async def test_more_than_can_wait_are_refused_and_the_others_are_served(passwords: Passwords) -> None:
    answers = await asyncio.gather(
        *(passwords.hash("correct horse") for _ in range(60)), return_exceptions=True
    )
    refused = [each for each in answers if isinstance(each, RateLimitedError)]
    assert len(refused) == 10
    assert all(each.retry_after_ms for each in refused)
    assert await passwords.verify("correct horse", str(answers[0]))
