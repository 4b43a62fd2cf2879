"""Somebody at a browser: what they do and what they see, in the words of the page."""

import re
from uuid import uuid4

from playwright.async_api import ConsoleMessage, Dialog, Error, Locator, Page, expect
from playwright.async_api import TimeoutError as PlaywrightTimeoutError

from tests.harness import ROOT

PASSWORD = "a password of some length"
SCREENSHOTS = ROOT / "screenshots"
DESKTOP = (1440, 900)
STICKING_OUT = """() => [...document.querySelectorAll("body *")].filter((each) => {
    const { width, left, right } = each.getBoundingClientRect();
    return width > 0 && (right > innerWidth + 1 || left < -1) && !each.closest(".unseen");
}).map((each) => `${each.tagName}.${each.className}`)"""
# The machine may be busy with the other tests.
PATIENCE_MS = 20_000
expect.set_options(timeout=PATIENCE_MS)


class Account:
    """Somebody who can be found and written to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.username = f"{re.sub('[^a-z]', '', name.lower())[:8]}-{uuid4().hex[:8]}"


class Person(Account):
    """Somebody in front of a page. `problems` is what the browser complained of."""

    def __init__(self, page: Page, url: str, name: str) -> None:
        super().__init__(name)
        self.page = page
        self.context = page.context
        self.url = url
        self.problems: list[str] = []
        self._expected: list[str] = []
        self.watch(page)

    @property
    def log(self) -> Locator:
        """The messages of the open conversation."""
        return self.page.get_by_role("log")

    @property
    def messages(self) -> Locator:
        return self.log.locator(".message")

    @property
    def box(self) -> Locator:
        """Where messages are written."""
        return self.page.locator(".composer textarea")

    @property
    def pill(self) -> Locator:
        """The state of the connection."""
        return self.page.locator(".pill-text")

    @property
    def notice(self) -> Locator:
        return self.page.locator(".notice")

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    @property
    def rooms(self) -> Locator:
        """The list of conversations."""
        return self.page.locator(".room-list .room")

    def room(self, name: str) -> Locator:
        return self.rooms.filter(has=self.page.locator(".name", has_text=name))

    def message(self, text: str) -> Locator:
        """The message that says this; the newest one of several."""
        said = self.page.locator(".body, .tombstone").filter(has_text=text)
        return self.messages.filter(has=said).last

    def tick(self, text: str, state: str) -> Locator:
        """The mark of one's own message: Sending, Sent or Read."""
        return self.message(text).locator(".mark").get_by_text(state)

    def button(self, name: str, *, exact: bool = True) -> Locator:
        return self.page.get_by_role("button", name=name, exact=exact)

    def may(self, complaint: str) -> None:
        """This (a regular expression) in the console belongs to the test."""
        self._expected.append(complaint)

    def watch(self, page: Page) -> None:
        """Note what this page complains of: errors, warnings, reports of its security policy, dialogs."""
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", self._failed)
        page.on("console", self._heard)
        page.on("dialog", self._asked)

    def unwatch(self) -> None:
        """Another one takes this page over."""
        self.page.remove_listener("pageerror", self._failed)
        self.page.remove_listener("console", self._heard)
        self.page.remove_listener("dialog", self._asked)

    def unexpected(self) -> list[str]:
        return [each for each in self.problems if not any(re.search(one, each) for one in self._expected)]

    async def sign_up(self) -> "Person":
        await self.page.goto(self.url)
        await self.button("Sign up").click()
        await self.page.get_by_label("Username").fill(self.username)
        await self.page.get_by_label("Your name").fill(self.name)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.button("Sign up").click()
        await self.is_connected()
        return self

    async def sign_in(self) -> None:
        """Sign in again to the account one has."""
        await self.page.get_by_label("Username").fill(self.username)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.button("Sign in").click()
        await self.is_connected()

    async def open_tab(self) -> Page:
        """Go on in another tab; the one left behind."""
        before, self.page = self.page, await self.context.new_page()
        self.watch(self.page)
        await self.page.goto(self.url)
        return before

    async def is_connected(self) -> None:
        await expect(self.pill).to_have_text(re.compile("^(Connected|Back, nothing missed)$"))

    async def reconnect(self) -> None:
        """Connect again at once, unless that has happened by itself."""
        try:
            await self.button("Reconnect now").click(timeout=1_000)
        except PlaywrightTimeoutError:
            await self.is_connected()
        await self.is_connected()

    async def new(self, tab: str) -> Locator:
        """The dialog of a new conversation at one of its tabs."""
        await self.button("New conversation").first.click()
        await self.dialog.get_by_role("tab", name=tab).click()
        return self.dialog

    async def talk_to(self, other: Account) -> None:
        dialog = await self.new("Person")
        await dialog.get_by_role("searchbox").fill(other.username)
        await dialog.get_by_role("button").filter(has_text=other.username).click()
        await expect(self.page.locator(".conversation h2")).to_have_text(other.name)

    async def make_group(self, name: str, *members: Account, is_public: bool = False) -> None:
        dialog = await self.new("Group")
        await dialog.get_by_label("Name of the group").fill(name)
        await dialog.get_by_label("Anyone may find and join it").set_checked(is_public)
        for each in members:
            await dialog.get_by_role("searchbox").fill(each.username)
            await dialog.get_by_role("button").filter(has_text=each.username).click()
        await dialog.get_by_role("button", name="Create group").click()
        await expect(self.page.locator(".conversation h2")).to_have_text(name)

    async def join(self, name: str) -> None:
        dialog = await self.new("Public rooms")
        await dialog.get_by_role("searchbox").fill(name)
        await dialog.get_by_role("button", name=name).click()
        await expect(self.page.locator(".conversation h2")).to_have_text(name)

    async def open(self, room: str) -> None:
        await self.room(room).click()
        await expect(self.page.locator(".conversation h2")).to_have_text(room)

    async def say(self, *texts: str) -> None:
        for text in texts:
            await self.box.fill(text)
            await self.box.press("Enter")
            await expect(self.message(text)).to_be_visible()

    async def choose(self, text: str, item: str) -> None:
        """Open the menu of a message and pick an item."""
        await self.message(text).hover()
        await self.message(text).locator("[data-tool=more]").click()
        menu = self.page.get_by_role("menu")
        await menu.locator("button").filter(has_text=item).or_(menu.get_by_label(item)).click()

    async def choose_account(self, item: str) -> None:
        await self.page.locator(".self").click()
        await self.page.get_by_role("menuitem", name=item, exact=True).click()

    async def confirm(self, question: str) -> None:
        """Say yes to what the page asks, in a dialog of this title."""
        await self.page.get_by_role("dialog", name=question).locator(".destructive").click()

    async def sticking_out(self) -> list[str]:
        """The classes of what is wider than the page."""
        found: list[str] = await self.page.evaluate(STICKING_OUT)
        return found

    async def shot(self, name: str) -> None:
        """Leave a picture of the page."""
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _failed(self, error: Error) -> None:
        self.problems.append(f"{error.message}\n{error.stack}")

    async def _asked(self, dialog: Dialog) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        await dialog.dismiss()
