"""Logins: mistakes in signing in and up, several tabs, and tokens that end."""

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, expect

from tests.browser.people import Pages, People, people_at
from tests.browser.person import PASSWORD, Person
from tests.harness import Json, running_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

TOKEN_LIFE_S = 10
NO_STORAGE = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("denied", "SecurityError"); },
});"""
SERVER_ENV = {
    "TERTULIA_AUTH__ACCESS_TTL_S": str(TOKEN_LIFE_S),
    "TERTULIA_AUTH__EXPIRING_NOTICE_S": "7",
    "TERTULIA_AUTH__LEEWAY_S": "0",
}


class Renewals:
    """The new tokens that the tabs of one browser get and tell the server."""

    def __init__(self, person: Person) -> None:
        self.used: list[str] = []
        """The refresh token of each request for new ones."""
        self.shared = asyncio.Event()
        """Set once two tabs have told the server the same new token."""
        self._told: set[tuple[Page, str]] = set()
        self.watch(person.page)
        person.context.on("page", self.watch)
        person.context.on("request", self._asked)

    def watch(self, page: Page) -> None:
        page.on(
            "websocket", lambda socket: socket.on("framesent", lambda frame: self._sent(page, str(frame)))
        )

    def _sent(self, page: Page, frame: str) -> None:
        found = re.search(r'"auth_refresh",\{"token":"([^"]+)"', frame)
        if found:
            self._told.add((page, found[1]))
            if len([token for _, token in self._told if token == found[1]]) > 1:
                self.shared.set()

    def _asked(self, request: Request) -> None:
        if request.url.endswith("/auth/refresh"):
            body: Json = request.post_data_json or {}
            self.used.append(body["refresh_token"])


async def test_several_tabs_are_one_login(people: People) -> None:
    """They show the same, renew their tokens once for all, and signing out in one is signing out in both."""
    (ana,) = await people.signed_up("Ana Gómez")
    juan = await people.arrive("Juan Pérez", apart=True)
    juan.may(r"status of 401 .*/auth/refresh")  # so the other tab learns that the login is over
    renewals = Renewals(juan)
    await juan.sign_up()
    first = await juan.open_tab()
    await juan.is_connected()
    await asyncio.wait_for(renewals.shared.wait(), 30)
    assert len(renewals.used) == len(set(renewals.used)), renewals.used

    await ana.talk_to(juan)
    await ana.say("Hola, in both?")
    await expect(first.locator(".room .badge")).to_contain_text("1 unread")
    await juan.open("Ana Gómez")
    await expect(first.locator(".room .badge")).to_have_count(0)
    await juan.say("In both!")
    await first.locator(".room").click()
    await expect(first.locator(".message", has_text="In both!").get_by_text("Read")).to_be_attached()

    await juan.choose_account("Sign out")
    for page in (juan.page, first):
        await expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        await expect(page.locator(".message")).to_have_count(0)
    await juan.sign_in()
    await expect(first.locator(".pill-text")).to_have_text("Connected")
    await expect(juan.room("Ana Gómez")).to_contain_text("In both!")


async def test_a_token_ends_while_one_is_asleep(people: People) -> None:
    """On waking the page gets a new token by itself and shows what was said meanwhile."""
    ana, juan = [await people.arrive(name, apart=True) for name in ("Ana Gómez", "Juan Pérez")]
    juan.may("ERR_INTERNET_DISCONNECTED")
    # What is connecting when hours pass at once has taken too long.
    juan.may("WebSocket is closed before the connection is established")
    await juan.page.clock.install()
    for person in (ana, juan):
        await person.sign_up()
    await ana.talk_to(juan)
    await juan.context.set_offline(True)
    await ana.say("Sleep well")
    await asyncio.sleep(TOKEN_LIFE_S)  # the server's own clock must pass the end of the token
    await juan.page.clock.fast_forward("08:00:00")
    renewals = Renewals(juan)
    await juan.context.set_offline(False)
    await juan.is_connected()
    assert renewals.used != []
    await juan.open("Ana Gómez")
    await expect(juan.message("Sleep well")).to_be_visible()
    await juan.say("Good morning")
    await expect(ana.message("Good morning")).to_be_visible()


async def test_signing_out_on_all_devices(people: People) -> None:
    """The other browser is signed out, and says so."""
    juan = await people.arrive("Juan Pérez")
    await juan.sign_up()
    phone = await people.arrive("Juan Pérez", (360, 720))
    phone.username = juan.username
    phone.may(r"status of 401 .*/auth/refresh")
    await phone.page.goto(phone.url)
    await phone.sign_in()
    await juan.choose_account("Sign out on all devices")
    await expect(juan.button("Sign in")).to_be_visible()
    await expect(phone.button("Sign in")).to_be_visible()
    await expect(phone.page.get_by_role("alert")).to_have_text("You were signed out. Please sign in again.")


async def test_a_browser_that_keeps_nothing(people: People) -> None:
    """Where its storage is blocked the page works for as long as it is open."""
    juan = await people.arrive("Juan Pérez", apart=True)
    await juan.context.add_init_script(NO_STORAGE)
    await juan.sign_up()
    await juan.talk_to(await people.registered("Ana Gómez"))
    await juan.say("Hola!")
    await expect(juan.tick("Hola!", "Sent")).to_be_attached()
    await juan.button("Sound for new messages").click()
    await expect(juan.button("Sound for new messages")).to_have_attribute("aria-pressed", "false")


async def test_who_is_signed_out_is_not_told_of_a_wrong_password(people: People) -> None:
    """Only the form in which one was typed speaks of it."""
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.choose_account("Name and picture")
    await juan.page.evaluate("localStorage.clear()")
    await juan.button("Save").click()
    await expect(juan.dialog.get_by_role("alert")).to_have_text("You are signed out. Please sign in again.")


async def test_a_server_without_accounts(pages: Pages, tmp_path: Path) -> None:
    """Says where to sign in instead."""
    async with (
        running_server(tmp_path, {"TERTULIA_AUTH__ACCOUNTS": "false"}) as server,
        people_at(pages, server.url) as people,
    ):
        juan = await people.arrive("Juan Pérez")
        juan.may(r"status of 403")
        await juan.page.goto(juan.url)
        await juan.page.get_by_label("Username").fill(juan.username)
        await juan.page.get_by_label("Password").fill(PASSWORD)
        await juan.button("Sign in").click()
        await expect(juan.page.get_by_role("alert")).to_contain_text(
            "This server has no accounts of its own."
        )


async def test_mistakes_in_signing_in_and_up(people: People) -> None:
    """Each says at its field what to do."""
    ana, juan = await people.arrive("Ana Gómez"), await people.arrive("Juan Pérez")
    await ana.sign_up()
    juan.may(r"status of (401|409|422)")
    await juan.page.goto(juan.url)
    page, problem = juan.page, juan.page.get_by_role("alert")
    await page.get_by_label("Username").fill(ana.username)
    await page.get_by_label("Password").fill("not the password")
    await juan.button("Sign in").click()
    await expect(problem).to_have_text("The username or the password is wrong.")
    await juan.shot("sign-in-wrong")

    await juan.button("Sign up").click()
    await page.get_by_label("Your name").fill("Juan Pérez")
    mistakes = {
        (ana.username, PASSWORD): ("That is taken already.", "Username"),
        ("jü", PASSWORD): ("A username has 3 to 32 characters", "Username"),
        (juan.username, "short"): ("A password has 8 to 128 characters.", "Password"),
    }
    for (username, password), (told, field) in mistakes.items():
        await page.get_by_label("Username").fill(username)
        await page.get_by_label("Password").fill(password)
        await juan.button("Sign up").click()
        await expect(problem).to_contain_text(told)
        await expect(page.get_by_label(field)).to_be_focused()
        await expect(page.get_by_label(field)).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Password").fill(PASSWORD)
    await juan.button("Sign up").click()
    await juan.is_connected()
