"""The people of a test and the browsers they sit at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from playwright.async_api import Browser, Page

from tests.browser.person import DESKTOP, PASSWORD, Account, Person
from tests.harness import Api

USUAL = {"locale": "en-US", "timezone_id": "UTC"}


class Pages:
    """Empty pages. Those that somebody has left are used again: new ones cost most of the time of a test."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._free: list[Page] = []

    async def usual(self) -> Page:
        return self._free.pop() if self._free else await self.apart()

    async def apart(self, **options: Any) -> Page:
        """A new one, in a context with these options."""
        return await (await self._browser.new_context(**{**USUAL, **options})).new_page()

    async def give_back(self, page: Page) -> None:
        await page.context.set_offline(offline=False)
        await page.context.unroute_all(behavior="ignoreErrors")
        if page.url != "about:blank":
            await page.evaluate("localStorage.clear()")
            await page.goto("about:blank")
        self._free.append(page)


class People:
    """Makes people."""

    def __init__(self, pages: Pages, api: Api) -> None:
        self._pages = pages
        self._api = api
        self._apart: set[Person] = set()
        self._present: list[Person] = []

    async def arrive(
        self, name: str, size: tuple[int, int] = DESKTOP, *, apart: bool = False, **options: Any
    ) -> Person:
        """Somebody in front of an empty page; of their own if `apart` or with options for its context."""
        is_apart = apart or bool(options)
        page = await (self._pages.apart(**options) if is_apart else self._pages.usual())
        await page.set_viewport_size({"width": size[0], "height": size[1]})
        person = Person(page, self._api.url, name)
        self._present.append(person)
        if is_apart:
            self._apart.add(person)
        return person

    async def signed_up(self, *names: str) -> list[Person]:
        """People with new accounts, at the chat."""
        arrived = [await self.arrive(name) for name in names]
        return list(await asyncio.gather(*(person.sign_up() for person in arrived)))

    async def registered(self, name: str) -> Account:
        """Somebody who has an account and is not here."""
        account = Account(name)
        fields = {"username": account.username, "password": PASSWORD, "display_name": name}
        status, answer = await self._api.call("POST", "/api/auth/register", fields)
        assert status == 200, answer
        return account

    async def leave(self) -> None:
        """Everybody leaves. Fails if a browser complained of anything that was not expected."""
        present, self._present = self._present, []
        for person in present:
            person.unwatch()
            if person in self._apart or person.page.is_closed() or len(person.context.pages) > 1:
                await person.context.close()
            else:
                await self._pages.give_back(person.page)
        complaints = {person.name: person.unexpected() for person in present if person.unexpected()}
        assert not complaints, complaints


@asynccontextmanager
async def people_at(pages: Pages, url: str) -> AsyncIterator[People]:
    """People for the length of a block, at the server of this address."""
    async with aiohttp.ClientSession() as session:
        people = People(pages, Api(url, session))
        yield people
        await people.leave()
