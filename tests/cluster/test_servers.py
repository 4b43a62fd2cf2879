"""What holds for people who are connected to different servers of a cluster."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.cluster.site import Cluster, becomes, readiness, running_cluster
from tests.fault_proxy import FaultProxy
from tests.harness import (
    Client,
    Json,
    ServerProcess,
    caught_up,
    connected,
    http_api,
    site_token,
)

pytestmark = pytest.mark.real_services

Matcher = Callable[[Json], bool]

ON_OTHER_SERVERS_S = 2.0
GHOST_S = 30.0
ROUNDS = 8


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    # Typing is not to end by itself while a test waits for its end.
    env = {"TERTULIA_PRESENCE__GRACE_S": "1", "TERTULIA_PRESENCE__TYPING_TTL_S": "600"}
    async with running_cluster(tmp_path, 2, env) as made:
        yield made


@pytest.fixture
async def one(cluster: Cluster) -> ServerProcess:
    return cluster.nodes[0]


@pytest.fixture
async def other(cluster: Cluster) -> ServerProcess:
    return cluster.nodes[1]


async def group(owner: Client, *member_ids: str) -> str:
    made = await owner.call("create_room", {"kind": "group", "name": "Tapas", "member_ids": list(member_ids)})
    room_id: str = made["room"]["id"]
    return room_id


async def say(sender: Client, room_id: str, content: str = "x") -> Json:
    message: Json = (await sender.call("chat_message", {"room_id": room_id, "content": content}))["message"]
    return message


async def test_all_servers_tell_the_same_in_the_same_order(cluster: Cluster) -> None:
    await cluster.add()
    async with (
        connected(cluster.nodes[0].url, site_token("ana")) as (ana,),
        connected(cluster.nodes[1].url, site_token("juan")) as (juan,),
        connected(cluster.nodes[2].url, site_token("eva")) as (eva,),
    ):
        everybody = (ana, juan, eva)
        room_id = await group(ana, "juan", "eva")
        for each in everybody:
            await each.heard("room_joined", lambda told: told["room_id"] == room_id)

        async def persist(who: Client, event: str, **payload: object) -> Json:
            """Where three servers write one room at once an event may take too long: then it is repeated."""
            while not (answer := await who.ask(event, {"room_id": room_id, **payload}))["ok"]:
                assert answer["error"]["code"] == "unavailable", answer
            message: Json = answer["data"]["message"]
            return message

        async def talk(who: Client) -> None:
            for number in range(ROUNDS):
                said = await persist(who, "chat_message", content="x", client_msg_id=f"{number}")
                reaction = {"reaction_type": "like", "action": "add"}
                await persist(who, "react_message", message_id=said["id"], **reaction)
                await persist(who, "edit_message", message_id=said["id"], content="edited")

        await asyncio.gather(*map(talk, everybody))
        last = await say(ana, room_id, "the last one")
        for each in everybody:
            await each.heard("chat_message", lambda told: told["message"]["id"] == last["id"])
        sequences = [
            [
                (event, told.get("rev") or told["message"]["rev"])
                for event, told in each.events
                if event in {"chat_message", "message_edited", "message_reaction"}
            ]
            for each in everybody
        ]
        assert sequences[0] == sequences[1] == sequences[2]
        assert [rev for _, rev in sequences[0]] == list(range(1, 3 * 3 * ROUNDS + 2))


async def test_who_is_removed_hears_nothing_that_is_said_after_the_ack(
    one: ServerProcess, other: ServerProcess
) -> None:
    async with (
        connected(one.url, site_token("ana")) as (ana,),
        connected(other.url, site_token("juan"), site_token("eva")) as (juan, eva),
    ):
        room_id = await group(ana, "juan", "eva")
        await juan.heard("room_joined")
        await say(eva, room_id, "for all")
        await juan.heard("chat_message")
        await ana.call("remove_member", {"room_id": room_id, "user_id": "juan"})
        for speaker in (eva, ana):
            await say(speaker, room_id, "not for juan")
        await juan.heard("room_left")
        assert await juan.refused("chat_message", {"room_id": room_id, "content": "x"}) == "not_found"
        kept = await group(eva, "juan")
        last = await say(eva, kept)
        await juan.heard("chat_message", lambda told: told["message"]["id"] == last["id"])
        assert [told["message"]["content"] for told in juan.received("chat_message")] == ["for all", "x"]


async def test_a_logout_ends_the_sockets_on_every_server(one: ServerProcess, other: ServerProcess) -> None:
    async with http_api(one) as api:
        signed = await api.register("juan")
        token = signed["access_token"]
        async with connected(one.url, token) as (here,), connected(other.url, token) as (there,):
            status, _ = await api.call("POST", "/api/auth/logout", {"everywhere": True}, token=token)
            assert status == 200
            async with asyncio.timeout(ON_OTHER_SERVERS_S):
                for client in (here, there):
                    assert (await client.heard("session_ended"))["code"] == "token_revoked"
                    await client.ended.wait()


async def test_one_person_on_two_servers_is_one_person(one: ServerProcess, other: ServerProcess) -> None:
    async with connected(one.url, site_token("ana")) as (ana,):
        await group(ana, *(await known(one, "juan", "clock")))
        async with connected(one.url, site_token("juan")) as (phone,):
            await ana.heard("user_status", is_status("juan", "online"))
            async with connected(other.url, site_token("juan")):
                await phone.close()
                async with connected(other.url, site_token("clock")) as (clock,):
                    await ana.heard("user_status", is_status("clock", "online"))
                    await clock.close()
                await ana.heard("user_status", is_status("clock", "offline"))
                assert statuses(ana, "juan") == ["online"]
        await ana.heard("user_status", is_status("juan", "offline"))
        assert statuses(ana, "juan") == ["online", "offline"]


async def test_of_a_server_that_was_killed_nobody_stays_online(
    cluster: Cluster, one: ServerProcess, other: ServerProcess
) -> None:
    async with connected(one.url, site_token("ana")) as (ana,):
        await group(ana, *(await known(one, "juan", "eva")))
        async with (
            connected(other.url, site_token("juan"), site_token("eva")),
            connected(one.url, site_token("eva")),
        ):
            for name in ("juan", "eva"):
                await ana.heard("user_status", is_status(name, "online"))
            await cluster.kill(other)
            async with asyncio.timeout(GHOST_S):
                await ana.heard("user_status", is_status("juan", "offline"))
            assert statuses(ana, "eva") == ["online"]


async def test_typing_is_shown_and_ends_across_servers(one: ServerProcess, other: ServerProcess) -> None:
    async with (
        connected(one.url, site_token("ana"), site_token("juan")) as (ana, phone),
        connected(other.url, site_token("juan")) as (laptop,),
    ):
        room_id = await group(ana, "juan")
        await phone.heard("room_joined")
        await laptop.heard("room_joined")
        await phone.call("typing", {"room_id": room_id, "is_typing": True})
        await ana.heard("typing_status", lambda told: told["is_typing"])
        await say(laptop, room_id)
        await ana.heard("typing_status", lambda told: not told["is_typing"])


async def test_a_server_that_alone_is_deaf_is_unready_and_its_people_are_told_all_the_same(
    cluster: Cluster, one: ServerProcess
) -> None:
    async with FaultProxy(cluster.redis.port).listening() as line:
        deaf = await cluster.add({"TERTULIA_CLUSTER__URL": f"redis://127.0.0.1:{line.port}/0"})
        async with (
            connected(one.url, site_token("ana")) as (ana,),
            connected(deaf.url, site_token("juan")) as (juan,),
        ):
            room_id = await group(ana, "juan")
            await juan.heard("room_joined")
            line.choose = lambda: "blackhole"
            line.cut()
            await becomes(deaf, 503, ok=False, reasons=["bus"])
            assert (await readiness(one))[0] == 200
            said = [await say(juan, room_id, "from the deaf one"), await say(ana, room_id, "to the deaf one")]
            for client in (ana, juan):
                for message in said:
                    await client.heard("chat_message", is_message(message))
            assert not juan.ended.is_set()
            line.choose = lambda: "none"
            line.cut()
            await becomes(deaf, 200, ok=True, reasons=[])
            last = await say(ana, room_id)
            for client in (ana, juan):
                await client.heard("chat_message", is_message(last))
                revs = [told["message"]["rev"] for told in client.received("chat_message")]
                assert revs == [1, 2, 3]


async def test_without_redis_every_server_serves_and_says_so(
    cluster: Cluster, one: ServerProcess, other: ServerProcess
) -> None:
    async with (
        connected(one.url, site_token("ana")) as (ana,),
        connected(other.url, site_token("juan")) as (juan,),
    ):
        room_id = await group(ana, "juan")
        await juan.heard("room_joined")
        cluster.redis.kill()
        for node in (one, other):
            await becomes(node, 200, ok=True, reasons=[], degraded=["bus"])
        said = await say(ana, room_id, "by the store")
        await juan.heard("chat_message", is_message(said))
        answer = await ana.ask("remove_member", {"room_id": room_id, "user_id": "juan"})
        assert answer["error"]["code"] == "unavailable", "nobody can be sure that juan is out everywhere"
        await juan.heard("room_left")
        await asyncio.to_thread(cluster.redis.start)
        for node in (one, other):
            await becomes(node, 200, ok=True, reasons=[])


async def test_who_joined_and_left_while_redis_was_away_is_told_once(
    cluster: Cluster, one: ServerProcess, other: ServerProcess
) -> None:
    async with (
        connected(one.url, site_token("ana"), site_token("juan")) as (ana, juan_here),
        connected(other.url, site_token("juan"), site_token("eva")) as (juan_there, eva),
    ):
        (left, joined), kept = [await group(ana, "juan") for _ in range(2)], await group(ana, "juan", "eva")
        async with connected(other.url, site_token("juan"), room_id=left) as (of_one_room,):
            cluster.redis.kill()
            for node in (one, other):
                await becomes(node, 200, ok=True, reasons=[], degraded=["bus"])
            answer = await ana.ask("remove_member", {"room_id": left, "user_id": "juan"})
            assert answer["error"]["code"] == "unavailable"
            await ana.call("add_member", {"room_id": joined, "user_id": "eva"})
            # It is read from the store now, and comes by Redis later.
            for juan in (juan_here, juan_there, of_one_room):
                await juan.heard("room_left")
            await eva.heard("room_joined", is_room(joined))
            await asyncio.to_thread(cluster.redis.start)
            for node in (one, other):
                await becomes(node, 200, ok=True, reasons=[])
            await caught_up(ana, kept, juan_here, juan_there, eva)
            assert await of_one_room.refused("history") == "not_found"
            for juan in (juan_here, juan_there, of_one_room):
                assert juan.received("room_left") == [{"room_id": left, "reason": "removed"}]
            assert [told["room_id"] for told in eva.received("room_joined")] == [kept, joined]
            for each in (juan_here, juan_there, eva):
                each.events.clear()
            await ana.call("add_member", {"room_id": left, "user_id": "juan"})
            await ana.call("remove_member", {"room_id": joined, "user_id": "eva"})
            for juan in (juan_here, juan_there):
                await juan.heard("room_joined", is_room(left))
            await eva.heard("room_left", is_room(joined))


async def test_a_server_of_a_cluster_says_what_it_needs(cluster: Cluster, tmp_path: Path) -> None:
    env = {"TERTULIA_DATABASE__URL": cluster.store_url}
    with pytest.raises(AssertionError, match=r"cluster\.url: Redis refuses connections"):
        await cluster.add({**env, "TERTULIA_CLUSTER__URL": "redis://:hunter2@127.0.0.1:1/0"})
    with pytest.raises(AssertionError, match="servers of a cluster use this database"):
        await cluster.add({**env, "TERTULIA_CLUSTER__URL": "memory://"})
    with pytest.raises(
        AssertionError, match=r"cluster\.url: Redis does not accept|cluster\.url: Redis refuses"
    ):
        await cluster.add(
            {**env, "TERTULIA_CLUSTER__URL": f"redis://:hunter2@127.0.0.1:{cluster.redis.port}/0"}
        )
    assert "hunter2" not in logged(tmp_path)


def logged(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("server.log"))


def is_status(user_id: str, status: str) -> Matcher:
    return lambda told: (told["user_id"], told["status"]) == (user_id, status)


def is_room(room_id: str) -> Matcher:
    return lambda told: bool(told["room_id"] == room_id)


def is_message(message: Json) -> Matcher:
    return lambda told: bool(told["message"]["id"] == message["id"])


def statuses(client: Client, user_id: str) -> list[str]:
    return [told["status"] for told in client.received("user_status") if told["user_id"] == user_id]


async def known(node: ServerProcess, *names: str) -> tuple[str, ...]:
    """People whom the site knows, though they are not connected."""
    async with http_api(node) as api:
        for name in names:
            status, _ = await api.call("GET", "/api/me", token=site_token(name))
            assert status == 200
    return names
