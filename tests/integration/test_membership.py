"""Who hears what around the moment in which somebody enters or leaves a room."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.harness import Client, ServerProcess, caught_up, connected, site_token

pytestmark = [pytest.mark.every_store, pytest.mark.clustered(2)]

ROUNDS = 8


async def _group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


def _contents(client: Client, room_id: str) -> list[str]:
    told = [each["message"] for each in client.received("chat_message")]
    return [message["content"] for message in told if message["room_id"] == room_id]


@contextlib.asynccontextmanager
async def _chatter(room_id: str, *senders: Client) -> AsyncIterator[None]:
    """The senders post one message after the other for the length of a block."""
    is_over = asyncio.Event()

    async def post(sender: Client) -> None:
        while not is_over.is_set():
            await sender.call("chat_message", {"room_id": room_id, "content": "chatter"})

    async with asyncio.TaskGroup() as group:
        for sender in senders:
            for _ in range(4):
                group.create_task(post(sender))
        try:
            yield
        finally:
            is_over.set()


@pytest.mark.heavy
async def test_the_removed_hear_nothing_sent_after_the_ack_and_the_added_hear_everything(
    server: ServerProcess,
) -> None:
    """Added and removed again and again while others talk without a pause."""
    tokens = map(site_token, ("juan", "eva", "eva", "ana", "ana"))
    async with connected(server.url, *tokens) as (juan, eva, eva_phone, ana, ana_phone):
        room_id = await _group(juan, "eva")
        beside = await _group(juan, "ana")
        member = {"room_id": room_id, "user_id": "ana"}
        async with _chatter(room_id, eva, eva_phone):
            for number in range(ROUNDS):
                await juan.call("add_member", member)
                await juan.call("chat_message", {"room_id": room_id, "content": f"in {number}"})
                await juan.call("remove_member", member)
                await juan.call("chat_message", {"room_id": room_id, "content": f"out {number}"})
        await caught_up(juan, beside, ana, ana_phone)
        for device in (ana, ana_phone):
            heard = [each for each in _contents(device, room_id) if each != "chatter"]
            assert heard == [f"in {number}" for number in range(ROUNDS)]
            assert len(device.received("room_left")) == ROUNDS
            assert len(device.received("room_joined")) == ROUNDS + 1, "and the room beside"
        await caught_up(juan, room_id, eva)
        assert [each for each in _contents(eva, room_id) if each.startswith("out")] == [
            f"out {number}" for number in range(ROUNDS)
        ]


async def test_nothing_of_a_room_comes_after_room_left(server: ServerProcess) -> None:
    async with connected(server.url, *map(site_token, ("juan", "eva", "ana"))) as (juan, eva, ana):
        room_id = await _group(juan, "eva", "ana")
        beside = await _group(juan, "ana")
        async with _chatter(room_id, juan, eva):
            await ana.heard("chat_message", lambda told: told["message"]["seq"] > 20)
            await ana.call("leave_room", {"room_id": room_id})
            await juan.heard("member_left")
        await caught_up(juan, beside, ana)
        of_the_room = [
            event for event in ana.events if room_id in (event[1].get("room_id"), _room_of(event[1]))
        ]
        assert of_the_room[-1] == ("room_left", {"room_id": room_id, "reason": "left"})


async def test_a_device_that_connects_while_its_user_is_added_hears_the_room(server: ServerProcess) -> None:
    """Whether the addition comes before, during or after its CONNECT."""
    ana_token = site_token("ana")
    async with connected(server.url, site_token("juan"), ana_token) as (juan, _ana):
        for _ in range(ROUNDS):
            room_id = await _group(juan)
            phone = Client()
            await asyncio.gather(
                phone.connect(server.url, {"token": ana_token}),
                juan.call("add_member", {"room_id": room_id, "user_id": "ana"}),
            )
            await caught_up(juan, room_id, phone)
            await phone.close()


async def test_a_device_that_connects_while_its_user_is_removed_does_not_hear_the_room(
    server: ServerProcess,
) -> None:
    ana_token = site_token("ana")
    async with connected(server.url, site_token("juan"), ana_token) as (juan, _ana):
        beside = await _group(juan, "ana")
        for _ in range(ROUNDS):
            room_id = await _group(juan, "ana")
            phone = Client()
            await asyncio.gather(
                phone.connect(server.url, {"token": ana_token}),
                juan.call("remove_member", {"room_id": room_id, "user_id": "ana"}),
            )
            await juan.call("chat_message", {"room_id": room_id, "content": "secret"})
            await caught_up(juan, beside, phone)
            assert _contents(phone, room_id) == []
            await phone.close()


def _room_of(told: dict[str, dict[str, str]]) -> str | None:
    return told.get("message", {}).get("room_id")
