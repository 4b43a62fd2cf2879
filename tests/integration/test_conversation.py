"""Two people talk through the official Python client."""

import pytest

from tests.harness import Api, Client, ServerProcess, connected

pytestmark = [pytest.mark.every_store, pytest.mark.clustered(2)]


async def _pair(api: Api) -> tuple[str, str, str]:
    juan, ana = await api.register("juan"), await api.register("ana")
    return juan["access_token"], ana["access_token"], ana["user"]["id"]


async def test_a_message_reaches_both_people_and_is_acknowledged(server: ServerProcess, api: Api) -> None:
    juan_token, ana_token, ana_id = await _pair(api)
    async with connected(server.url, juan_token, ana_token) as (juan, ana):
        sent = await juan.call(
            "chat_message", {"to_user_id": ana_id, "content": "Hola!", "client_msg_id": "1"}
        )
        message = sent["message"]
        assert (message["seq"], message["rev"], sent["duplicate"]) == (1, 1, False)
        for person in (juan, ana):
            told = await person.heard("chat_message")
            assert told["message"]["id"] == message["id"]
            assert told["message"]["sender"]["username"] == "juan"


async def test_somebody_who_was_away_learns_of_everything_by_sync(server: ServerProcess, api: Api) -> None:
    juan_token, ana_token, ana_id = await _pair(api)
    async with connected(server.url, juan_token) as (juan,):
        sent = await juan.call("chat_message", {"to_user_id": ana_id, "content": "one"})
        room_id, first = sent["message"]["room_id"], sent["message"]["id"]
        await juan.call("chat_message", {"room_id": room_id, "content": "two", "reply_to": first})
        await juan.call("edit_message", {"room_id": room_id, "message_id": first, "content": "uno"})
        await juan.call("react_message", {"room_id": room_id, "message_id": first, "reaction_type": "like"})
        ana = await Client().connect(server.url, {"token": ana_token})
        synced = await ana.call("sync", {"rooms": {room_id: 0}})
        (room,) = synced["rooms"]
        assert [(each["seq"], each["rev"], each["content"]) for each in room["changes"]] == [
            (2, 2, "two"),
            (1, 4, "uno"),
        ]
        assert room["changes"][0]["reply_to"]["id"] == first
        assert (room["rev"], room["room"]["unread"], room["truncated"], room["reset"]) == (4, 2, False, False)
        await ana.close()
