"""Everything works without a mouse."""

import pytest
from playwright.async_api import Locator, expect

from tests.browser.people import People
from tests.browser.person import PASSWORD, Account, Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

PHONE, TABLET, DESKTOP = (360, 720), (768, 1024), (1440, 900)
MOST_TABS = 40


class Keyboard:
    """The keys of somebody."""

    def __init__(self, person: Person) -> None:
        self.page = person.page

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.page.keyboard.press(key)

    async def write(self, text: str) -> None:
        """Type a text and press Enter."""
        await self.page.keyboard.type(text)
        await self.page.keyboard.press("Enter")

    async def tab_to(self, target: Locator, key: str = "Tab") -> None:
        """Press Tab until the focus is on it."""
        await expect(target).to_be_visible()
        for _ in range(MOST_TABS):
            await self.press(key)
            if await target.evaluate("(element) => element === document.activeElement"):
                return
        raise AssertionError(f"{key} never came to {target}")


async def sign_up(juan: Person, keys: Keyboard) -> None:
    await juan.page.goto(juan.url)
    await keys.tab_to(juan.button("Sign up"))
    await keys.press("Enter")
    for text in (juan.username, juan.name, PASSWORD):
        await keys.page.keyboard.type(text)
        await keys.press("Tab")
    await keys.press("Enter")
    await juan.is_connected()


async def write_to(juan: Person, keys: Keyboard, ana: Account) -> None:
    await keys.tab_to(juan.button("New conversation").first)
    await keys.press("Enter")
    await expect(juan.dialog.get_by_role("searchbox")).to_be_focused()
    await keys.page.keyboard.type(ana.username)
    await keys.tab_to(juan.dialog.get_by_role("button").filter(has_text=ana.username))
    await keys.press("Enter")
    await expect(juan.box).to_be_focused()
    await keys.write("First")
    await keys.write("Second")
    await expect(juan.tick("Second", "Sent")).to_be_attached()


async def react_and_reply(juan: Person, keys: Keyboard) -> None:
    """The focus stays at the message while its menu comes and goes and it is drawn anew."""
    first = juan.message("First").first
    await keys.tab_to(juan.message("Second"), "Shift+Tab")
    await keys.press("ArrowUp")
    await expect(first).to_be_focused()
    await keys.press("Enter", "ArrowRight", "Enter")
    await expect(first.locator(".reaction")).to_have_text("❤️")
    await expect(first).to_be_focused()
    await keys.press("Enter", "End", "Escape")
    await expect(first).to_be_focused()
    await keys.press("Enter", *["ArrowDown"] * 6)
    await expect(juan.page.locator(".menu :focus")).to_have_text("Reply")
    await keys.press("Enter")
    await expect(juan.box).to_be_focused()
    await keys.write("Third")
    await expect(juan.message("Third").locator(".quote")).to_contain_text("First")
    await expect(juan.tick("Third", "Sent")).to_be_attached()


async def edit_and_delete(juan: Person, keys: Keyboard) -> None:
    await keys.press("ArrowUp")
    await expect(juan.box).to_have_value("Third")
    await keys.write(" time")
    await expect(juan.message("Third time").locator(".meta")).to_contain_text("edited")
    await keys.tab_to(juan.message("Third time"), "Shift+Tab")
    await keys.press("Enter", "End")
    await expect(juan.page.locator(".menu :focus")).to_have_text("Delete")
    await keys.press("Enter")
    await expect(juan.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await keys.press("Tab", "Enter")
    await expect(juan.messages.last).to_contain_text("This message was deleted")
    await expect(juan.box).to_be_focused()


async def test_a_group_is_made_by_the_keyboard(people: People) -> None:
    """Enter in the search takes who was found and makes no group yet; the next one can be searched for."""
    ana, eva = await people.registered("Ana Gómez"), await people.registered("Eva Ruiz")
    (juan,) = await people.signed_up("Juan Pérez")
    keys = Keyboard(juan)
    dialog = await juan.new("Group")
    search = dialog.get_by_role("searchbox")
    await dialog.get_by_label("Name of the group").fill("Tapas")
    await keys.tab_to(search)
    for count, each in enumerate((ana, eva), start=1):
        await keys.page.keyboard.type(each.username)
        await expect(dialog.locator(".people:not([inert]) li")).to_have_count(1)
        await keys.press("Enter")
        await expect(dialog.locator(".chip")).to_have_count(count)
        await expect(search).to_have_value("")
        await expect(search).to_be_focused()
    await keys.tab_to(dialog.get_by_role("button", name="Create group"))
    await keys.press("Enter")
    await expect(juan.page.locator(".conversation-bar")).to_contain_text("3 members")


@pytest.mark.parametrize("size", [PHONE, TABLET, DESKTOP], ids=["360", "768", "1440"])
async def test_the_keyboard_alone(people: People, size: tuple[int, int]) -> None:
    """Sign up, find somebody, talk, react, reply, edit, delete, change rooms, sign out."""
    ana = await people.registered("Ana Gómez")
    juan = await people.arrive("Juan Pérez", size)
    keys = Keyboard(juan)
    await sign_up(juan, keys)
    await write_to(juan, keys, ana)
    await react_and_reply(juan, keys)
    await edit_and_delete(juan, keys)

    if size == PHONE:
        await keys.tab_to(juan.button("Back to the conversations"), "Shift+Tab")
        await keys.press("Enter")
        await expect(juan.room("Ana Gómez")).to_be_focused()
    else:
        await keys.tab_to(juan.room("Ana Gómez"), "Shift+Tab")
    await keys.press("Enter")
    await expect(juan.box).to_be_focused()
    if size == PHONE:
        await juan.page.go_back()
    await keys.tab_to(juan.page.locator(".self"), "Shift+Tab")
    await keys.press("Enter", "ArrowDown", "Enter")
    await expect(juan.page.get_by_label("Username")).to_be_focused()
