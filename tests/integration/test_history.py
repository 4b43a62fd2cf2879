"""`history`: a room's messages page by page."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.harness import Api, Client, Json, ServerProcess, connected, site_token

pytestmark = pytest.mark.every_store

MOST_BYTES = 256 * 1024
LONG = "😀" * 4_000
COUNT = 120


@contextlib.asynccontextmanager
async def _room_of(server: ServerProcess, content: str, count: int) -> AsyncIterator[tuple[Client, str]]:
    """Juan in a room with `count` such messages."""
    async with connected(server.url, site_token("juan")) as (juan,):
        made = await juan.call("create_room", {"kind": "group", "name": "Tapas"})
        said = {"room_id": made["room"]["id"], "content": content}
        await asyncio.gather(*(juan.call("chat_message", said) for _ in range(count)))
        yield juan, said["room_id"]


def _seqs(data: Json) -> list[int]:
    return [message["seq"] for message in data["messages"]]


async def test_a_page_is_chosen_by_one_seq_and_comes_ascending(server: ServerProcess) -> None:
    table: list[tuple[Json, range, bool]] = [
        ({}, range(71, 121), True),
        ({"limit": 3}, range(118, 121), True),
        ({"before_seq": 71}, range(21, 71), True),
        ({"before_seq": 21, "limit": 100}, range(1, 21), False),
        ({"before_seq": 21, "limit": 20}, range(1, 21), False),
        ({"before_seq": 22, "limit": 20}, range(2, 22), True),
        ({"before_seq": 1}, range(0), False),
        ({"before_seq": 0}, range(0), False),
        ({"before_seq": 10_000, "limit": 2}, range(119, 121), True),
        ({"after_seq": 0, "limit": 5}, range(1, 6), True),
        ({"after_seq": 100, "limit": 20}, range(101, 121), False),
        ({"after_seq": 100, "limit": 19}, range(101, 120), True),
        ({"after_seq": 120}, range(0), False),
        ({"after_seq": 10_000}, range(0), False),
        ({"around_seq": 60, "limit": 5}, range(58, 63), True),
        ({"around_seq": 1, "limit": 5}, range(1, 6), True),
        ({"around_seq": 120, "limit": 5}, range(116, 121), True),
        ({"around_seq": 10_000, "limit": 5}, range(116, 121), True),
    ]
    async with _room_of(server, "x", COUNT) as (juan, room_id):
        for asked, seqs, has_more in table:
            data = await juan.call("history", {"room_id": room_id, **asked})
            assert (_seqs(data), data["has_more"]) == (list(seqs), has_more), asked


async def test_around_says_has_more_until_the_whole_room_is_shown(server: ServerProcess) -> None:
    async with _room_of(server, "x", 5) as (juan, room_id):
        for limit, has_more in ((4, True), (5, False), (100, False)):
            data = await juan.call("history", {"room_id": room_id, "around_seq": 3, "limit": limit})
            assert (len(_seqs(data)), data["has_more"]) == (min(limit, 5), has_more)


async def test_what_cannot_be_meant_is_invalid(server: ServerProcess) -> None:
    wrong: list[Json] = [
        {"limit": 0},
        {"limit": 101},
        {"limit": "5"},
        {"before_seq": -1},
        {"before_seq": 1.5},
        {"around_seq": 2**53},
        {"before_seq": 5, "after_seq": 5},
        {"after_seq": 5, "around_seq": 5},
        {"seq": 5},
    ]
    async with _room_of(server, "x", 1) as (juan, room_id):
        for asked in wrong:
            assert await juan.refused("history", {"room_id": room_id, **asked}) == "invalid", asked


async def test_an_empty_room_has_an_empty_page(server: ServerProcess) -> None:
    async with _room_of(server, "x", 0) as (juan, room_id):
        for asked in ({}, {"before_seq": 5}, {"after_seq": 0}, {"around_seq": 1}):
            assert await juan.call("history", {"room_id": room_id, **asked}) == {
                "messages": [],
                "has_more": False,
            }


async def test_a_page_of_long_messages_holds_those_nearest_the_asked_seq(server: ServerProcess) -> None:
    """And with `has_more` the pages put together have every message once."""
    async with _room_of(server, LONG, 60) as (juan, room_id):
        asked: dict[str, Json] = {"older": {"limit": 60}, "newer": {"limit": 60, "after_seq": 0}}
        for direction, first in asked.items():
            page, seqs, pages = dict(first), list[int](), 0
            while True:
                answer = await juan.ask("history", {"room_id": room_id, **page})
                size = len(json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode())
                assert 0.9 * MOST_BYTES < size <= MOST_BYTES or not answer["data"]["has_more"]
                found = _seqs(answer["data"])
                seqs = found + seqs if direction == "older" else seqs + found
                pages += 1
                if not answer["data"]["has_more"]:
                    break
                page = {"limit": 60}
                page |= {"before_seq": seqs[0]} if direction == "older" else {"after_seq": seqs[-1]}
            assert (seqs, pages) == (list(range(1, 61)), 4)
        around = _seqs(await juan.call("history", {"room_id": room_id, "around_seq": 30, "limit": 60}))
        assert around == list(range(around[0], around[-1] + 1))
        assert abs((30 - around[0]) - (around[-1] - 30)) <= 1


async def test_over_http_the_same_page_comes(server: ServerProcess, api: Api) -> None:
    async with _room_of(server, "x", 10) as (juan, room_id):
        over_socket = await juan.call("history", {"room_id": room_id, "around_seq": 5, "limit": 3})
        path = f"/api/rooms/{room_id}/messages"
        assert await api.call("GET", f"{path}?around_seq=5&limit=3", token=site_token("juan")) == (
            200,
            over_socket,
        )
        for query in ("limit=0", "limit=x", "around_seq=1&before_seq=2", "colour=red"):
            status, answer = await api.call("GET", f"{path}?{query}", token=site_token("juan"))
            assert (status, answer["error"]["code"]) == (422, "invalid"), query
        status, _ = await api.call("GET", path, token=site_token("eva"))
        assert status == 404
