"""What a person sees of a connection that comes and goes, and of messages on their way."""

import json
import re
import signal
from pathlib import Path

import pytest
from playwright.async_api import WebSocketRoute, expect

from tests.browser.people import Pages, People, people_at
from tests.browser.person import Person
from tests.harness import ServerProcess, running_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVER_ENV = {"TERTULIA_CHAT__MAX_CONTENT_CHARS": "100"}
# What browsers write about addresses that do not answer.
NO_NETWORK = (
    r"ERR_(INTERNET_DISCONNECTED|CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|NETWORK)"
    r"|closed before the connection is established"
)


async def two_talking(people: People) -> tuple[Person, Person]:
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    juan.may(NO_NETWORK)
    await juan.talk_to(ana)
    await juan.say("Hola Ana!")
    await ana.open("Juan Pérez")
    await expect(ana.message("Hola Ana!")).to_be_visible()
    return ana, juan


async def texts(person: Person) -> list[str]:
    return await person.messages.locator(".text").all_inner_texts()


async def test_one_is_offline_for_a_while(people: People) -> None:
    """What one writes meanwhile waits and is sent on coming back; what others did meanwhile is there."""
    ana, juan = await two_talking(people)
    await juan.context.set_offline(True)
    await expect(juan.pill).to_contain_text("Reconnecting")
    await juan.say("Are you there?", "I am in a tunnel")
    await ana.say("Where did you go?")
    await ana.choose("Hola Ana!", "React: love")
    await expect(juan.tick("Are you there?", "Sending…")).to_be_attached()
    await expect(juan.tick("I am in a tunnel", "Sending…")).to_be_attached()
    await expect(juan.message("Where did you go?")).to_have_count(0)
    await expect(juan.room("Ana Gómez").locator(".preview")).to_have_text("Sending…I am in a tunnel")
    await juan.shot("offline")

    await juan.context.set_offline(False)
    await juan.is_connected()
    for text in ("Are you there?", "I am in a tunnel"):
        await expect(juan.tick(text, "Sending…")).to_have_count(0)
        await expect(ana.message(text)).to_be_visible()
    await expect(juan.message("Hola Ana!").locator(".reaction")).to_have_text("❤️")
    expected = ["Hola Ana!", "Where did you go?", "Are you there?", "I am in a tunnel"]
    await expect(juan.messages.locator(".text")).to_have_text(expected)
    assert await texts(ana) == expected


async def test_what_waits_outlives_the_page(people: People) -> None:
    """A page closed before its message was sent sends it when it is opened again, once."""
    ana, juan = await two_talking(people)
    await juan.context.set_offline(True)
    await juan.say("Written in a tunnel")
    await juan.page.close()
    await juan.context.set_offline(False)
    await juan.open_tab()
    await expect(ana.message("Written in a tunnel")).to_be_visible()
    await juan.open("Ana Gómez")
    await expect(juan.tick("Written in a tunnel", "Read")).to_be_attached()
    assert await texts(juan) == ["Hola Ana!", "Written in a tunnel"]


async def test_nothing_is_sent_before_the_server_says_so(people: People, server: ServerProcess) -> None:
    """While the server takes its time a message is pending."""
    _, juan = await two_talking(people)
    server.process.send_signal(signal.SIGSTOP)
    try:
        await juan.say("Slowly")
        await expect(juan.tick("Slowly", "Sending…")).to_be_attached()
        await expect(juan.message("Slowly").locator("time")).to_be_visible()
        await expect(juan.message("Slowly").get_by_text("Sent", exact=True)).to_have_count(0)
    finally:
        server.process.send_signal(signal.SIGCONT)
    await expect(juan.tick("Slowly", "Read")).to_be_attached()


async def test_what_is_refused_can_be_mended(people: People) -> None:
    """A message that is too long says so; edited it is sent, and the first one is gone."""
    ana, juan = await two_talking(people)
    await juan.choose("Hola Ana!", "Reply")
    await juan.say("Too long " * 20)
    failed = juan.message("Too long")
    await expect(failed.get_by_role("alert")).to_contain_text("Not sent. This message is too long.")
    await expect(juan.room("Ana Gómez").locator(".preview")).to_contain_text("Not sent. Too long")
    await expect(failed.get_by_role("button", name="Try again")).to_have_count(0)
    await juan.shot("failed")
    await juan.box.fill("and half a thou")
    await failed.get_by_role("button", name="Edit").click()
    await expect(juan.box).to_have_value(re.compile("^Too long.*\nand half a thou$"))
    await juan.box.fill("Short")
    await juan.box.press("Enter")
    await expect(ana.message("Short").locator(".quote")).to_contain_text("Hola Ana!")
    assert await texts(juan) == ["Hola Ana!", "Short"]
    await juan.say("Again too long " * 20)
    await juan.message("Again too long").get_by_role("button", name="Discard").click()
    await expect(juan.messages).to_have_count(2)


class ForgedAnswer:
    """Stands between page and server: the first message is answered `internal` although it was stored."""

    def __init__(self) -> None:
        self._forged = False

    def join(self, page_side: WebSocketRoute) -> None:
        server_side = page_side.connect_to_server()

        def from_server(frame: str | bytes) -> None:
            ack = re.match(r"43/chat,(\d+)\[", str(frame))
            if '"Unlucky"' not in str(frame) or self._forged:
                page_side.send(frame)
            elif ack:
                self._forged = True
                error = {"code": "internal", "message": "a bug", "error_id": "e-4711"}
                page_side.send(f"43/chat,{ack[1]}{json.dumps([{'ok': False, 'error': error}])}")

        page_side.on_message(server_side.send)
        server_side.on_message(from_server)


async def test_a_failed_message_is_sent_again(people: People) -> None:
    """It says why, with the number to report; sent again it is there once, for it keeps its id."""
    forged = ForgedAnswer()
    ana, juan = [await people.arrive(name, apart=True) for name in ("Ana Gómez", "Juan Pérez")]
    await juan.page.route_web_socket(re.compile("/socket.io/"), forged.join)
    for person in (ana, juan):
        await person.sign_up()
    await juan.talk_to(ana)
    await juan.say("Unlucky")
    await expect(juan.message("Unlucky").get_by_role("alert")).to_contain_text("report the number e-4711")
    await expect(juan.message("Unlucky").get_by_text("Sent", exact=True)).to_have_count(0)
    await juan.message("Unlucky").get_by_role("button", name="Try again").click()
    await expect(juan.tick("Unlucky", "Sent")).to_be_attached()
    await ana.open("Juan Pérez")
    assert await texts(ana) == await texts(juan) == ["Unlucky"]


async def test_the_server_goes_away_and_comes_back(pages: Pages, tmp_path: Path) -> None:
    """Attempts are counted; nothing is lost; limits say how long to wait, unknown tokens to sign in again."""
    data = tmp_path / "data"
    limits = {
        "TERTULIA_LIMITS__SOCKETS_PER_USER": "1",
        "TERTULIA_LIMITS__CHANGE_BURST": "1",
        "TERTULIA_LIMITS__CHANGE_PER_S": "0.01",
    }
    async with running_server(data, limits) as server:
        at_its_place = {"TERTULIA_SERVER__PORT": server.url.rpartition(":")[2], **limits}
        async with people_at(pages, server.url) as people:
            ana, juan = await two_talking(people)
            # Whoever polls in that moment asks the next server for a session of the last one.
            for person in (ana, juan):
                person.may(rf"{NO_NETWORK}|status of 400")
            await juan.choose("Hola Ana!", "React: love")
            await juan.choose("Hola Ana!", "React: sad")
            await expect(juan.notice).to_contain_text(re.compile(r"too fast. Try again in \d+ s"))
            await server.stop(signal.SIGKILL)
            await expect(juan.pill).to_contain_text(re.compile(r"Reconnecting, attempt \d"))
            await juan.say("Is it only me?")
            await expect(juan.tick("Is it only me?", "Sending…")).to_be_attached()
            await juan.shot("reconnecting")

            async with running_server(data, at_its_place) as again:
                await juan.reconnect()
                await ana.reconnect()
                await expect(ana.message("Is it only me?")).to_be_visible()
                await expect(juan.tick("Is it only me?", "Read")).to_be_attached()

                first = await juan.open_tab()
                await juan.is_connected()
                await expect(first.locator(".pill")).to_contain_text("Too many windows of yours are open")
                await again.stop(signal.SIGKILL)

            another = {**at_its_place, "TERTULIA_AUTH__SECRET": "another secret of more than 32 bytes"}
            async with running_server(data, another):
                await expect(juan.pill).to_contain_text("Refused: Your sign-in is not accepted.")
                await juan.shot("refused")
                await juan.button("Sign in again").click()
                await expect(juan.button("Sign in")).to_be_visible()
                await expect(juan.page.get_by_role("alert")).to_contain_text("Please sign in again.")
