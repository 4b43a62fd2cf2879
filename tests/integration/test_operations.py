"""Running it: what is logged, how it stops, what it refuses to start with, and its other commands."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientResponse
from jsonschema import Draft7Validator, Draft202012Validator

from server import events
from server.asyncapi import document
from tests.harness import (
    PATIENCE_S,
    ROOT,
    SECRET,
    Api,
    Client,
    Json,
    ServerProcess,
    connected,
    http_api,
    raw_socket,
    refusal,
    running_server,
    site_token,
    start_server,
)
from tests.node import NODE_MODULES, require_node

PRODUCTION = {"TERTULIA_SERVER__DEVELOPMENT": "false", "TERTULIA_SERVER__DRAIN_DELAY_S": "1"}
POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest_asyncio.fixture
async def production(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    """A server that takes a second to drain."""
    async with running_server(tmp_path / "data", PRODUCTION) as running:
        yield running


async def command(
    *arguments: str, folder: Path, env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """(exit code, what it printed, what it complained of) of `python -m server …`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        printed, complained = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode(), complained.decode()


async def test_what_happens_is_logged_by_name_in_lines_of_json(server: ServerProcess, api: Api) -> None:
    async with connected(server.url, site_token("eva")) as (eva,):
        await eva.ask("chat_message", {"room_id": "nowhere", "content": "a secret of Eva's"})
        await eva.ask("sync", {"cursor": "?"})
    await refusal(server.url, {"token": "garbage"})
    await api.call("GET", "/healthz")
    lines = server.log_lines()
    assert len(lines) == len(server.log_path.read_text().splitlines())
    assert all({"timestamp", "level", "event", "logger"} <= set(line) for line in lines)
    by_name: dict[str, list[Json]] = {}
    for line in lines:
        by_name.setdefault(line["event"], []).append(line)
    (started,) = by_name["server.started"]
    assert started["url"] == server.url
    assert (started["namespaces"], started["store"], started["bus"]) == (["/chat"], "sqlite", "memory")
    assert set(started["events"]) == set(events.CLIENT_EVENTS)
    (accepted,) = by_name["conn.accepted"]
    assert accepted["user_id"] == "eva"
    (closed,) = by_name["conn.closed"]
    assert (closed["sid"], closed["user_id"]) == (accepted["sid"], "eva")
    assert [line["code"] for line in by_name["conn.refused"]] == ["token_invalid"]
    assert [(line["name"], line["code"], line["field"]) for line in by_name["msg.rejected"]] == [
        ("chat_message", "not_found", "room_id"),
        ("sync", "invalid", "cursor"),
    ]
    assert {line["sid"] for line in by_name["msg.rejected"]} == {accepted["sid"]}
    assert "a secret of Eva's" not in server.log_path.read_text()


async def until_unready(api: Api) -> Json:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, body = await api.call("GET", "/readyz")
            if status == 503:
                return body
            await asyncio.sleep(0.01)


async def try_polling(api: Api) -> tuple[ClientResponse, bytes]:
    async with api.session.get(api.url + POLLING) as response:
        return response, await response.read()


async def test_sigterm_goes_unready_then_on_for_a_while_then_sends_everybody_away(
    production: ServerProcess,
) -> None:
    async with http_api(production) as api, raw_socket(api, {"token": site_token("mute")}) as mute:
        eva = await Client().connect(production.url, {"token": site_token("eva")})
        room = (await eva.call("create_room", {"kind": "public", "name": "Plaza"}))["room"]
        production.process.send_signal(signal.SIGTERM)
        assert await until_unready(api) == {"ok": False, "reasons": ["draining"]}
        assert await api.call("GET", "/healthz") == (200, {"ok": True})
        assert (await eva.call("chat_message", {"room_id": room["id"], "content": "still"}))["message"]["seq"]
        ana = await Client().connect(production.url, {"token": site_token("ana")})
        assert (await ana.call("join_room", {"room_id": room["id"]}))["room"]["id"] == room["id"]
        for client in (eva, ana):
            assert 0 <= (await client.heard("server_draining"))["reconnect_in_ms"] <= 10_000
            await client.ended.wait()
        # The one that does not answer the closing holds the server, which lets nobody in meanwhile.
        response, body = await try_polling(api)
        assert (response.status, int(response.headers["Retry-After"]) >= 1) == (503, True)
        assert json.loads(body)["error"]["code"] == "draining"
        await mute.closed()
    assert await production.stop() == 0
    names = [line["event"] for line in production.log_lines()]
    assert names.index("server.draining") < names.index("server.stopped")
    assert names.count("msg.rejected") == 0
    assert production.faults() == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_that_was_stopped_is_started_again_with_all_it_acknowledged(
    how: signal.Signals, tmp_path: Path
) -> None:
    async with running_server(tmp_path) as first, connected(first.url, site_token("eva")) as (eva,):
        room = (await eva.call("create_room", {"kind": "group", "name": "Tapas"}))["room"]
        await eva.call("chat_message", {"room_id": room["id"], "content": "Hola!"})
        epoch = (await eva.call("sync"))["epoch"]
        assert await first.stop(how) == 0
    async with running_server(tmp_path) as second, connected(second.url, site_token("eva")) as (eva,):
        synced = await eva.call("sync", {"rooms": {room["id"]: 0}})
        assert synced["epoch"] == epoch
        assert [each["content"] for each in synced["rooms"][0]["changes"]] == ["Hola!"]
        assert second.faults() == []


async def test_a_port_in_use_is_said_in_one_line_with_the_remedy(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        code, printed, complained = await command(
            "run", "--port", port, folder=tmp_path, env={"TERTULIA_AUTH__SECRET": SECRET}
        )
    assert (code, printed) == (1, "")
    (line,) = complained.splitlines()
    assert port in line
    assert "TERTULIA_SERVER__PORT" in line


async def test_a_second_server_on_one_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    env = {"TERTULIA_DATABASE__URL": url, "TERTULIA_AUTH__SECRET": SECRET, "TERTULIA_SERVER__PORT": "0"}
    async with running_server(tmp_path, env) as first, connected(first.url, site_token("eva")) as (eva,):
        code, printed, complained = await command(folder=tmp_path, env=env)
        assert (code, printed) == (1, "")
        (line,) = complained.splitlines()
        assert "another server uses" in line
        assert "database.url" in line
        assert (await eva.call("sync"))["me"]["id"] == "eva"
    # The lease goes with the process, however that ended.
    async with running_server(tmp_path, env) as second:
        assert await second.stop() == 0


async def test_a_file_that_is_no_database_of_this_version_is_refused_and_left_as_it_is(
    tmp_path: Path,
) -> None:
    newer, other, garbage = (tmp_path / name for name in ("newer.db", "other.db", "garbage.db"))
    for path, statement in ((newer, "PRAGMA user_version = 99"), (other, "CREATE TABLE posts (id INTEGER)")):
        with closing(sqlite3.connect(path)) as database:
            database.execute(statement)
    garbage.write_text("no database at all, but long enough to look like one " * 20)

    async def start(path: Path) -> str:
        env = {"TERTULIA_AUTH__SECRET": SECRET, "TERTULIA_DATABASE__URL": f"sqlite:///{path}"}
        code, printed, complained = await command("run", "--port", "0", folder=tmp_path, env=env)
        assert (code, printed) == (1, "")
        (line,) = complained.splitlines()
        return line

    complaints = await asyncio.gather(start(newer), start(other), start(garbage))
    for complaint, reason in zip(
        complaints, ("99, made by a newer", "another program", "not a SQLite"), strict=True
    ):
        assert reason in complaint
    for path, tables in ((newer, []), (other, [("posts",)])):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("SELECT name FROM sqlite_master").fetchall() == tables
    assert garbage.read_text().startswith("no database at all")


async def test_check_config_says_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("server:\n  prot: 1\n  port: many\nlog:\n  level: loud\n")
    env = {
        "TERTULIA_AUTH__SECRET": "too short a secret",
        "TERTULIA_LIMITS__NOPE": "1",
        "TERTULIA_CLUSTER__URL": "redis://user:hunter2@redis.example/0",
        "TERTULIA_REALTIME__TRANSPORTS": "carrier-pigeon",
        "TERTULIA_TEST_ANYTHING": "1",
    }
    code, printed, complained = await command("check-config", folder=tmp_path, env=env)
    assert (code, printed) == (2, "")
    keys = {line.partition(":")[0] for line in complained.splitlines()}
    assert keys >= {"server.prot", "server.port", "log.level", "auth.secret", "realtime.transports"}
    assert keys >= {"cluster.url", "TERTULIA_LIMITS__NOPE"}
    assert not [secret for secret in ("too short a secret", "hunter2") if secret in complained]
    assert (await command("run", folder=tmp_path, env=env))[0] == 2
    assert (await command("check-config", folder=ROOT))[:2] == (0, "the configuration is fine\n")


async def test_check_config_names_the_variables_that_set_nothing(tmp_path: Path) -> None:
    """Beside the errors too: a name mistyped like this is often why something else is wrong."""
    stray = {"TERTULIA_PORT": "hunter2", "TERTULIA_SERVICE_HOST": "10.0.0.1", "TERTULIA_TEST_ANYTHING": "1"}
    code, printed, complained = await command("check-config", folder=tmp_path, env=stray)
    assert (code, printed) == (0, "the configuration is fine\n")
    (line,) = complained.splitlines()
    assert line.startswith("warning: ")
    assert line.endswith(": TERTULIA_PORT, TERTULIA_SERVICE_HOST")
    env = {**stray, "TERTULIA_SERVER__PORT": "many"}
    code, printed, complained = await command("check-config", folder=tmp_path, env=env)
    assert (code, printed, len(complained.splitlines())) == (2, "", 2)
    assert line in complained
    assert "hunter2" not in complained


async def test_a_token_is_given_in_development_alone_and_is_accepted(tmp_path: Path) -> None:
    code, printed, complained = await command("token", "--user", "eva", folder=tmp_path)
    assert (code, printed) == (1, "")
    assert "TERTULIA_SERVER__DEVELOPMENT" in complained
    secret = tmp_path / "var" / "auth.secret"
    assert not secret.exists()
    development = {"TERTULIA_SERVER__DEVELOPMENT": "true"}
    # Without a secret of its own the server makes one, which the command finds in the same place.
    server = await start_server(tmp_path, {"TERTULIA_AUTH__SECRET": ""})
    try:
        code, printed, _ = await command("token", "--user", "eva", folder=tmp_path, env=development)
        assert code == 0
        async with connected(server.url, printed.strip()) as (eva,):
            assert (await eva.call("sync"))["me"]["id"] == "eva"
    finally:
        assert await server.stop() == 0
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in server.log_path.read_text()


async def test_the_asyncapi_document_follows_the_official_schema_and_names_every_event() -> None:
    require_node()
    code, printed, complained = await command("asyncapi", folder=ROOT)
    assert (code, complained) == (0, "")
    given = json.loads(printed)
    schema = NODE_MODULES / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"
    assert list(Draft7Validator(json.loads(schema.read_text())).iter_errors(given)) == []
    messages = given["components"]["messages"]
    assert set(messages) == {
        *(f"client.{name}" for name in events.CLIENT_EVENTS),
        *(f"ack.{name}" for name in events.CLIENT_EVENTS),
        *(f"server.{name}" for name in events.SERVER_EVENTS),
    }
    assert set(given["channels"]["chat"]["messages"]) == set(messages)
    assert given["channels"]["chat"]["address"] == "/chat"
    said = {each["$ref"].rpartition("/")[2] for op in given["operations"].values() for each in _said(op)}
    assert said == set(messages)


def _said(operation: Json) -> list[dict[str, str]]:
    return [*operation["messages"], *operation.get("reply", {}).get("messages", [])]


async def test_what_the_server_sends_is_what_the_asyncapi_document_says(server: ServerProcess) -> None:
    components = document()["components"]

    def assert_described(message: str, value: object) -> None:
        schema = {**components["messages"][message]["payload"], "components": components}
        assert list(Draft202012Validator(schema).iter_errors(value)) == []
        # Without this an empty schema would do.
        assert list(Draft202012Validator(schema).iter_errors({}))

    async with connected(server.url, site_token("eva"), site_token("ana")) as (eva, ana):
        made = await eva.ask("create_room", {"kind": "group", "name": "Tapas", "member_ids": ["ana"]})
        where = {"room_id": made["data"]["room"]["id"]}
        sent = await eva.ask("chat_message", {**where, "content": "Hola!"})
        reaction = {**where, "message_id": sent["data"]["message"]["id"], "reaction_type": "like"}
        answers = {
            "create_room": made,
            "chat_message": sent,
            "react_message": await eva.ask("react_message", reaction),
        }
        answers["sync"] = await eva.ask("sync", {"rooms": {where["room_id"]: 0}})
        for name, answer in answers.items():
            assert answer["ok"]
            assert_described(f"ack.{name}", answer)
            assert_described(f"ack.{name}", await eva.ask(name, {"surprise": 1}))
        await ana.heard("message_reaction")
        assert {"room_joined", "member_joined", "chat_message"} <= {name for name, _ in ana.events}
        for name, payload in ana.events:
            assert_described(f"server.{name}", payload)
