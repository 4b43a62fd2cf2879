"""Servers whose Redis speaks TLS and wants a password."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.cluster.site import Cluster, running_cluster
from tests.harness import caught_up, connected, site_token
from tests.redis_server import running_redis

pytestmark = pytest.mark.real_services


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    authority = Authority(tmp_path / "authority")
    with running_redis(tmp_path / "redis", password="hunter2/with:signs", authority=authority) as redis:
        env = {"SSL_CERT_FILE": str(authority.trusted)}
        async with running_cluster(tmp_path, 2, env, redis=redis) as made:
            yield made


async def test_servers_are_joined_by_tls(cluster: Cluster) -> None:
    one, other = cluster.nodes
    async with (
        connected(one.url, site_token("ana")) as (ana,),
        connected(other.url, site_token("juan")) as (juan,),
    ):
        group = {"kind": "group", "name": "Tapas", "member_ids": ["juan"]}
        room_id = (await ana.call("create_room", group))["room"]["id"]
        await juan.heard("room_joined")
        await caught_up(ana, room_id, juan)
        await caught_up(juan, room_id, ana)
        page = await ana.call("sync", {})
        assert set(page["online"]) == {"ana", "juan"}
    assert not [fault for node in cluster.nodes for fault in node.faults()]


async def test_a_redis_that_cannot_be_trusted_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    stranger = await asyncio.to_thread(Authority, tmp_path / "stranger")
    with pytest.raises(AssertionError, match=r"cluster\.url: the certificate of Redis is not accepted"):
        await cluster.add({"SSL_CERT_FILE": str(stranger.trusted)})
    wrong = f"rediss://:hunter3@127.0.0.1:{cluster.redis.port}/0"
    with pytest.raises(AssertionError, match=r"cluster\.url: Redis does not accept .* password") as caught:
        await cluster.add({"TERTULIA_CLUSTER__URL": wrong})
    assert "hunter" not in str(caught.value)
