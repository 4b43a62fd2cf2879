"""Nothing that people write is ever anything but text, and links and media are safe."""

import asyncio

import pytest
from playwright.async_api import Route, expect

from tests.browser.people import People
from tests.browser.person import Person
from tests.harness import Json, ServerProcess, connected

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = "<img src=x onerror=window.hit=1><script>window.hit=2</script>\"'><svg onload=window.hit=3>${7*7}"
LONG = "Donaudampfschiffahrtsgesellschaft" * 8
PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\rIDATx\x9cc\xfc\xcf\xc0P\x0f\x00\x04\x85\x01\x80\x84\xa9\x8c!\x00\x00\x00\x00IEND\xaeB`\x82"
)
SIGNS_OF_HTML = "script:not([src='/static/app.js']), img[onerror], svg[onload], [src='x']"


async def is_inert(person: Person) -> None:
    """No script ran, no element was made of what was written, and nothing sticks out of the page."""
    assert await person.page.evaluate("window.hit") is None
    assert await person.page.locator(SIGNS_OF_HTML).count() == 0
    assert await person.sticking_out() == []


@pytest.mark.parametrize("text", [HOSTILE, LONG], ids=["html", "long"])
async def test_every_text_field_is_inert(people: People, text: str) -> None:
    """Names of people and rooms, messages, quotes, edits, drafts and searches, wherever they are shown."""
    ana, juan = await people.arrive(text[:64], (360, 720)), await people.arrive("Juan Pérez")
    for person in (ana, juan):
        await person.sign_up()
        await is_inert(person)
    await ana.page.get_by_text("Make a group").click()
    await ana.dialog.get_by_label("Name of the group").fill(text[:100])
    await ana.dialog.get_by_role("searchbox").fill(text[:64])
    await expect(ana.dialog.locator(".nothing-found")).to_have_text("Nothing found")
    await ana.dialog.get_by_role("searchbox").fill(juan.username)
    await ana.dialog.get_by_role("button").filter(has_text=juan.username).click()
    await is_inert(ana)
    await ana.button("Create group").click()
    await expect(ana.page.locator(".conversation h2")).to_have_text(text[:100])

    await ana.say(text)
    await ana.choose(text[:40], "Reply")
    await is_inert(ana)
    await ana.say(f"again {text}")
    await ana.choose("again", "Edit")
    await ana.box.fill(f"edited {text}")
    await ana.box.press("Enter")
    await expect(ana.message("edited")).to_be_visible()
    await ana.shot("inert-phone" if text is HOSTILE else "long-phone")
    await is_inert(ana)
    await ana.button("About this room").click()
    await expect(ana.dialog.locator(".member")).to_have_count(2)
    await is_inert(ana)

    await expect(juan.rooms.locator(".name")).to_have_text(text[:100])
    await is_inert(juan)
    await juan.rooms.click()
    await expect(juan.message("edited").locator(".text")).to_have_text(f"edited {text}")
    await expect(juan.message("edited").locator(".quote .author")).to_have_text(text[:64])
    await juan.box.press_sequentially("x")
    await juan.page.get_by_label("Search conversations").fill(text)
    await is_inert(juan)
    await ana.page.keyboard.press("Escape")
    await ana.box.press_sequentially("x")
    await expect(juan.page.locator(".typing")).to_contain_text(f"{text[:64]} is typing")
    await is_inert(juan)


async def say_by_hand(server: ServerProcess, person: Person, *messages: tuple[str, str]) -> None:
    """Say things of a type and content to a person, as somebody with a client of their own."""
    async with asyncio.timeout(20):
        stored: Json = await person.page.evaluate("JSON.parse(localStorage.getItem('tertulia.session'))")
        async with connected(server.url, stored["access_token"]) as [client]:
            made = await client.call("create_room", {"kind": "group", "name": "By hand"})
            for message_type, content in messages:
                asked = {"room_id": made["room"]["id"], "message_type": message_type, "content": content}
                await client.call("chat_message", asked)


async def test_pictures_films_and_sounds(people: People, server: ServerProcess) -> None:
    """They show in place when they are at https; otherwise, and broken ones, as their address alone."""
    (ana,) = await people.signed_up("Ana Gómez")
    ana.may(r"Failed to load resource")

    async def media(route: Route) -> None:
        if "broken" in route.request.url:
            await route.abort()
        else:
            await route.fulfill(content_type="image/png", body=PIXEL)

    await ana.context.route("https://media.example/**", media)
    good, broken = "https://media.example/cat.png", "https://media.example/broken.png"
    await say_by_hand(
        server,
        ana,
        ("image", good),
        ("image", broken),
        ("video", "https://media.example/broken.webm"),
        ("audio", "https://media.example/broken.ogg"),
        ("image", "javascript:window.hit=1"),
        ("image", "data:text/html,<script>window.hit=1</script>"),
        ("file", "https://media.example/cat.pdf"),
    )
    await ana.open("By hand")
    picture = ana.message("cat.png").locator("img")
    await expect(picture).to_have_js_property("naturalWidth", 1)
    await expect(ana.message("broken.png").locator("img")).to_have_count(0)
    for name in ("cat.png", "broken.png", "broken.webm", "broken.ogg", "cat.pdf"):
        link = ana.message(name).locator("a[href^='https://media.example/']").last
        await expect(link).to_have_attribute("rel", "noopener noreferrer")
        await expect(link).to_have_attribute("target", "_blank")
    for name in ("broken.webm", "broken.ogg"):
        await expect(ana.message(name).locator("video, audio")).to_have_count(0)
    for name in ("javascript:", "data:text"):
        await expect(ana.message(name).locator("img, a")).to_have_count(0)
    await is_inert(ana)


async def test_addresses_in_a_text_are_links(people: People) -> None:
    """Only those of the web, without the sentence's punctuation."""
    (ana,) = await people.signed_up("Ana Gómez")
    await ana.talk_to(await people.registered("Juan Pérez"))
    await ana.say(
        "See https://example.org/a?b=1&c=(2), or (http://example.org). Not javascript:alert(1) <https://x.example/>!"
    )
    links = ana.messages.locator("a")
    await expect(links).to_have_text(
        ["https://example.org/a?b=1&c=(2)", "http://example.org", "https://x.example/"]
    )
    for link in await links.all():
        assert await link.get_attribute("rel") == "noopener noreferrer"
        assert await link.get_attribute("target") == "_blank"
    await is_inert(ana)


async def test_the_profile(people: People) -> None:
    """Name and picture are seen by others at once; a picture that is not at https is refused."""
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    await ana.talk_to(juan)
    await ana.say("Hola")
    await juan.open("Ana Gómez")
    for person in (ana, juan):
        await person.context.route(
            "https://media.example/**", lambda route: route.fulfill(content_type="image/png", body=PIXEL)
        )
    await ana.choose_account("Name and picture")
    await ana.dialog.get_by_label("Your name").fill("Anita Gómez")
    await ana.dialog.get_by_label("Address of your picture").fill("javascript:alert(1)")
    await ana.button("Save").click()
    await expect(ana.dialog).to_be_visible()
    await ana.dialog.get_by_label("Address of your picture").fill("https://media.example/ana.png")
    await ana.button("Save").click()
    await expect(ana.page.locator(".self")).to_contain_text("Anita Gómez")
    await expect(juan.room("Anita Gómez").locator(".avatar img")).to_be_visible()
    await expect(juan.page.locator(".conversation h2")).to_have_text("Anita Gómez")
