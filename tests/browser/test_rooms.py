"""Groups, public rooms, their members and their history."""

import asyncio
import re

import pytest
from playwright.async_api import Locator, expect

from tests.browser.people import People
from tests.browser.person import DESKTOP, Person
from tests.harness import Api, ServerProcess, connected

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 300


async def visible_texts(person: Person) -> list[str]:
    return await person.messages.locator(".text").all_inner_texts()


def member(person: Person, name: str) -> Locator:
    return person.dialog.locator(".member", has_text=name)


async def do_with(person: Person, name: str, item: str) -> None:
    """Pick an item of a member's menu."""
    await member(person, name).get_by_role("button").click()
    await person.page.get_by_role("menuitem", name=item).click()


async def test_a_third_person_joins_and_scrolls_up(people: People, api: Api, server: ServerProcess) -> None:
    """300 messages come as one scrolls, in order and each once; what one looks at stays in its place."""
    host = await api.register("host")
    async with connected(server.url, host["access_token"]) as [client]:
        made = await client.call("create_room", {"kind": "public", "name": "Old tales"})
        room_id = made["room"]["id"]
        tell = ({"room_id": room_id, "content": f"Tale {number}"} for number in range(1, MANY + 1))
        await asyncio.gather(*(client.call("chat_message", each) for each in tell))

    (eva,) = await people.signed_up("Eva Ruiz")
    await eva.join("Old tales")
    await expect(eva.message(f"Tale {MANY}")).to_be_in_viewport()
    assert len(await visible_texts(eva)) < MANY
    await eva.shot("public-room")

    oldest = eva.messages.first
    while (text := await oldest.locator(".text").inner_text()) != "Tale 1":
        await eva.log.evaluate("(log) => { log.scrollTop = 0; }")
        await expect(oldest.locator(".text")).not_to_have_text(text)
        await expect(eva.messages.filter(has=eva.page.get_by_text(text, exact=True))).to_be_in_viewport()
    assert await visible_texts(eva) == [f"Tale {number}" for number in range(1, MANY + 1)]
    await eva.say("What tales!")
    await expect(eva.message("What tales!")).to_be_in_viewport()


async def test_a_removed_member_sees_the_room_go(people: People) -> None:
    """With the reason; a left and a deleted room go as well."""
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    for name in ("Tapas", "Paella", "Gazpacho"):
        await ana.make_group(name, juan)
        await expect(juan.room(name)).to_be_visible()

    await juan.open("Tapas")
    await ana.open("Tapas")
    await ana.say("Sorry Juan")
    await ana.button("About this room").click()
    await do_with(ana, "Juan Pérez", "Remove")
    await ana.confirm("Remove Juan Pérez")
    await expect(juan.notice).to_contain_text("You were removed from this room.")
    await expect(juan.room("Tapas")).to_have_count(0)
    await expect(juan.box).to_have_count(0)
    await expect(member(ana, "Juan Pérez")).to_have_count(0)
    await ana.dialog.get_by_role("button", name="Close").click()
    await expect(ana.page.locator(".conversation-bar")).to_contain_text("1 member")

    await juan.open("Paella")
    await juan.button("About this room").click()
    await juan.button("Leave this room").click()
    await juan.confirm("Leave this room?")
    await expect(juan.room("Paella")).to_have_count(0)
    await expect(juan.dialog).to_have_count(0)

    await juan.open("Gazpacho")
    await ana.open("Gazpacho")
    await ana.button("About this room").click()
    await ana.button("Delete this room").click()
    await ana.confirm("Delete this room with")
    await expect(juan.notice).to_contain_text("This room was deleted.")
    await expect(juan.rooms).to_have_count(0)
    await expect(juan.page.locator(".steps")).to_be_visible()


async def test_members_and_their_roles(people: People) -> None:
    """The owner adds people, makes admins and renames; an admin may then do so too; a member may not."""
    ana, juan, eva = await people.signed_up("Ana Gómez", "Juan Pérez", "Eva Ruiz")
    await ana.make_group("Tapas", juan)
    await juan.open("Tapas")
    await juan.button("About this room").click()
    await expect(member(juan, "Ana Gómez")).to_contain_text("owner")
    await expect(juan.dialog.get_by_text("Add people")).to_have_count(0)
    await juan.dialog.get_by_role("button", name="Close").click()

    await ana.button("About this room").click()
    await ana.shot("room-info")
    await do_with(ana, "Juan Pérez", "Make admin")
    await expect(member(ana, "Juan Pérez")).to_contain_text("admin")

    await juan.button("About this room").click()
    await juan.dialog.get_by_text("Add people").click()
    await juan.dialog.get_by_role("searchbox").fill(eva.username)
    await juan.dialog.locator(".finder").get_by_role("button").filter(has_text=eva.username).click()
    await expect(member(juan, "Eva Ruiz")).to_be_visible()
    await expect(member(ana, "Eva Ruiz")).to_be_visible()
    await expect(eva.room("Tapas")).to_be_visible()

    await juan.dialog.get_by_text("Rename").click()
    await juan.dialog.get_by_label("Name of the room").fill("Tapas y vinos")
    await juan.dialog.get_by_role("button", name="Save").click()
    for person in (ana, juan, eva):
        await expect(person.room("Tapas y vinos")).to_be_visible()
    await expect(ana.dialog.get_by_role("heading", name="Tapas y vinos")).to_be_visible()
    await expect(ana.box).to_have_attribute("placeholder", "Message Tapas y vinos")
    await do_with(ana, "Eva Ruiz", "Write to Eva Ruiz")
    await expect(ana.page.locator(".conversation h2")).to_have_text("Eva Ruiz")


async def test_in_a_group(people: People) -> None:
    """Names stand over what others say, and a message is read once all have read it."""
    ana, juan, eva = await people.signed_up("Ana Gómez", "Juan Pérez", "Eva Ruiz")
    await ana.make_group("Tapas", juan, eva)
    await ana.say("Who is in?")
    await juan.open("Tapas")
    await expect(juan.message("Who is in?").locator(".author")).to_have_text("Ana Gómez")
    await expect(ana.page.locator(".conversation-bar")).to_contain_text("3 members")
    await juan.say("Me!")
    await expect(ana.message("Me!")).to_be_visible()
    await expect(ana.tick("Who is in?", "Sent")).to_be_attached()
    await expect(eva.room("Tapas")).to_contain_text("Juan Pérez: Me!")
    await juan.box.press_sequentially("T")
    await expect(ana.page.locator(".typing")).to_have_text("Juan Pérez is typing")
    await expect(eva.room("Tapas")).to_contain_text("Juan Pérez is typing")
    await eva.open("Tapas")
    await expect(ana.tick("Who is in?", "Read")).to_be_attached()
    await eva.say("And me")
    await eva.box.press_sequentially("T")
    await juan.box.press_sequentially("a")
    await expect(ana.page.locator(".typing")).to_contain_text(
        re.compile("^(Juan Pérez and Eva Ruiz|Eva Ruiz and Juan Pérez) are typing$")
    )


async def test_rooms_come_by_their_newest_message(people: People) -> None:
    """The list is by activity, and the search narrows it by name."""
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    eva = await people.registered("Eva Ruiz")
    await ana.talk_to(juan)
    await ana.say("To Juan")
    await ana.talk_to(eva)
    await ana.say("To Eva")
    await expect(ana.rooms.locator(".name")).to_have_text(["Eva Ruiz", "Juan Pérez"])
    await juan.open("Ana Gómez")
    await juan.say("Thanks")
    await expect(ana.rooms.locator(".name")).to_have_text(["Juan Pérez", "Eva Ruiz"])
    await ana.page.get_by_label("Search conversations").fill("eva")
    await expect(ana.rooms.locator(".name")).to_have_text(["Eva Ruiz"])
    await ana.page.get_by_label("Search conversations").fill("nobody")
    await expect(ana.page.locator(".rooms")).to_contain_text("Nothing found")


async def test_a_room_opens_although_it_changes_under_the_pointer(people: People) -> None:
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    await juan.talk_to(ana)
    await juan.say("Hola Ana!")
    row = ana.room("Juan Pérez")
    await expect(row).to_contain_text("Hola Ana!")
    await row.hover()
    await ana.page.mouse.down()
    await juan.say("¿Qué tal?")
    await expect(row).to_contain_text("¿Qué tal?")
    await ana.page.mouse.up()
    await expect(ana.page.locator(".conversation h2")).to_have_text("Juan Pérez")


async def test_the_first_steps(people: People) -> None:
    """Where nothing is there yet the page says what to do, and each step begins right there."""
    ana = await people.arrive("Ana Gómez", DESKTOP, permissions=["clipboard-read", "clipboard-write"])
    await ana.page.goto(ana.url)
    await expect(ana.page.get_by_role("main")).to_contain_text("Make the first account here")
    await ana.sign_up()
    await expect(ana.page.get_by_role("heading", name="Welcome, Ana Gómez")).to_be_visible()
    await ana.shot("first-steps")
    await ana.button("Invite somebody", exact=False).click()
    await expect(ana.notice).to_contain_text(ana.url)
    assert await ana.page.evaluate("navigator.clipboard.readText()") == f"{ana.url}/"
    steps = {"Talk to a person": "Person", "Make a group": "Group", "Join a public room": "Public rooms"}
    for step, tab in steps.items():
        await ana.button(step, exact=False).click()
        await expect(ana.dialog.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        await ana.page.keyboard.press("Escape")
        await expect(ana.dialog).to_have_count(0)
