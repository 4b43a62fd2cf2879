"""Read cursors are stored in batches."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from server.domain.errors import UnavailableError
from server.storage.base import RoomStore
from server.storage.cursors import CursorCommitter
from tests.virtual_time import in_virtual_time, settle


class _Cursors:
    """Of a RoomStore what cursors need."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[str, str, int]]] = []
        self.at: dict[tuple[str, str], int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.forgets_one = False

    async def advance_cursors(self, cursors: Sequence[tuple[str, str, int]]) -> list[int]:
        self.calls.append(list(cursors))
        await self.gate.wait()
        if self.error:
            raise self.error
        for room_id, user_id, seq in cursors:
            self.at[room_id, user_id] = max(seq, self.at.get((room_id, user_id), 0))
        return [self.at[room_id, user_id] for room_id, user_id, _ in cursors][self.forgets_one :]


@in_virtual_time
async def test_cursors_that_move_while_a_batch_is_written_are_written_together() -> None:
    store = _Cursors()
    cursors = CursorCommitter(cast("RoomStore", store))
    store.gate.clear()
    first = asyncio.create_task(cursors.advance("room", "juan", 5))
    await settle()
    rest = [asyncio.create_task(cursors.advance("room", "juan", seq)) for seq in (7, 6, 4)]
    await settle()
    store.gate.set()
    assert await asyncio.gather(first, *rest) == [5, 7, 7, 7]
    assert [len(call) for call in store.calls] == [1, 3]


@in_virtual_time
async def test_a_batch_of_cursors_has_at_most_500() -> None:
    store = _Cursors()
    cursors = CursorCommitter(cast("RoomStore", store))
    await asyncio.gather(*(cursors.advance("room", f"user-{n}", 1) for n in range(501)))
    assert [len(call) for call in store.calls] == [500, 1]


@pytest.mark.parametrize("error", [UnavailableError("away"), ValueError("a bug"), None])
@in_virtual_time
async def test_cursors_that_cannot_be_stored_fail_and_the_next_are_stored(error: Exception | None) -> None:
    store = _Cursors()
    store.error, store.forgets_one = error, error is None
    cursors = CursorCommitter(cast("RoomStore", store))
    with pytest.raises(UnavailableError):
        await cursors.advance("room", "juan", 1)
    store.error, store.forgets_one = None, False
    assert await cursors.advance("room", "juan", 2) == 2


@in_virtual_time
async def test_a_reader_who_leaves_does_not_concern_the_others() -> None:
    store = _Cursors()
    cursors = CursorCommitter(cast("RoomStore", store))
    store.gate.clear()
    leaver, stayer = (asyncio.create_task(cursors.advance("room", user, 3)) for user in ("ana", "juan"))
    await settle()
    leaver.cancel()
    store.gate.set()
    assert await stayer == 3


@in_virtual_time
async def test_close_stores_the_cursors_that_wait() -> None:
    store = _Cursors()
    cursors = CursorCommitter(cast("RoomStore", store))
    store.gate.clear()
    moves = [asyncio.create_task(cursors.advance("room", user, 3)) for user in ("ana", "juan")]
    await settle()
    closing = asyncio.create_task(cursors.close())
    await settle()
    store.gate.set()
    await closing
    assert await asyncio.gather(*moves) == [3, 3]
