"""What a server had in hand when it was killed."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.cluster.site import Cluster, running_cluster
from tests.fault_proxy import Fault, FaultProxy
from tests.harness import Client, connected, site_token

pytestmark = pytest.mark.real_services


async def say_and_be_killed(cluster: Cluster, line: FaultProxy, to: str, fault: Fault, ana: Client) -> str:
    """Somebody says something by a server that is killed when it hands that on; the room.

    The request `to` the store or Redis in which it is meets the fault.
    """
    url = (
        {"TERTULIA_DATABASE__URL": cluster.mongodb.url("cluster", port=line.port)}
        if to == "store"
        else {"TERTULIA_CLUSTER__URL": f"redis://127.0.0.1:{line.port}/0"}
    )
    node = await cluster.add(url)
    is_handed_on = asyncio.Event()

    def see(request: bytes) -> None:
        if fault.encode() in request and not is_handed_on.is_set():
            is_handed_on.set()
            line.choose = lambda: fault
        elif is_handed_on.is_set():
            line.choose = lambda: "blackhole"

    name = f"by-{to}-{len(fault)}"
    async with connected(node.url, site_token(name)) as (speaker,):
        group = {"kind": "group", "name": "Tapas", "member_ids": [name]}
        room_id: str = (await ana.call("create_room", group))["room"]["id"]
        await speaker.heard("room_joined", lambda told: told["room_id"] == room_id)
        line.see = see
        said = asyncio.create_task(
            speaker.ask("chat_message", {"room_id": room_id, "content": f"last: {fault}"})
        )
        await is_handed_on.wait()
        await cluster.kill(node)
        # Who was to answer is gone.
        said.cancel()
        await asyncio.wait([said])
    return room_id


async def test_what_a_killed_server_had_in_hand_is_told_once(tmp_path: Path) -> None:
    """Stored and not published; published, without its having known; on its way to the store."""
    hands: list[tuple[str, Fault]] = [
        ("redis", "blackhole"),
        ("redis", "cut after the request"),
        ("store", "delay"),
    ]
    async with running_cluster(tmp_path, 1) as cluster, contextlib.AsyncExitStack() as stack:
        (ana,) = await stack.enter_async_context(connected(cluster.nodes[0].url, site_token("ana")))
        rooms: dict[str, str] = {}
        for to, fault in hands:
            port = cluster.mongodb.port if to == "store" else cluster.redis.port
            line = await stack.enter_async_context(FaultProxy(port, delay_s=1).listening())
            rooms[await say_and_be_killed(cluster, line, to, fault, ana)] = f"last: {fault}"
            assert line.met[fault]
        for room_id, last in rooms.items():
            await ana.heard("chat_message", lambda told: told["message"]["content"] == last)  # noqa: B023
            await ana.call("chat_message", {"room_id": room_id, "content": "after it"})
        for room_id, last in rooms.items():
            await ana.heard(
                "chat_message",
                lambda told: (told["message"]["room_id"], told["message"]["rev"]) == (room_id, 2),  # noqa: B023
            )
            told = [each["message"] for each in ana.received("chat_message")]
            heard = [(each["rev"], each["content"]) for each in told if each["room_id"] == room_id]
            assert heard == [(1, last), (2, "after it")]
