"""The page for development."""

import pytest
from playwright.async_api import Locator, expect

from tests.browser.people import People

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def color_of(state: Locator) -> str:
    color: str = await state.evaluate("(state) => getComputedStyle(state).backgroundColor")
    return color


async def test_two_panes_of_one_room(people: People) -> None:
    """What one says is in the log of both, with its ack; the state is green or red; Reconnect connects."""
    tester = await people.arrive("Tester")
    tester.may("ERR_INTERNET_DISCONNECTED")
    await tester.page.goto(f"{tester.url}/test-chat/lab%20one")
    await expect(tester.page.get_by_role("heading", level=1)).to_have_text("Test chat: lab one")
    ana, juan = (tester.page.get_by_role("region", name=name) for name in ("ana", "juan"))
    for pane in (ana, juan):
        await expect(pane.get_by_role("status")).to_have_text("connected")
        await expect(pane.locator("li", has_text="ack of sync").first).to_be_visible()
    green = await color_of(ana.get_by_role("status"))

    await expect(juan.locator("li", has_text="ack of join_room")).to_be_visible()
    await ana.get_by_label("Message", exact=True).fill("<b>Hola</b>")
    await ana.get_by_label("Message", exact=True).press("Enter")
    await expect(ana.locator("li.ack", has_text="ack of chat_message")).to_contain_text("<b>Hola</b>")
    for pane in (ana, juan):
        await expect(pane.locator("li.event", has_text="<b>Hola</b>")).to_contain_text("chat_message")
    await tester.shot("test-chat")

    await tester.context.set_offline(True)
    await expect(ana.get_by_role("status")).to_contain_text("reconnecting")
    assert await color_of(ana.get_by_role("status")) != green
    await tester.context.set_offline(False)
    for pane in (ana, juan):
        await pane.get_by_role("button", name="Reconnect").click()
        await expect(pane.get_by_role("status")).to_have_text("connected")
    assert await color_of(ana.get_by_role("status")) == green
    await ana.get_by_label("Message", exact=True).fill("Again")
    await ana.get_by_role("button", name="Send").click()
    await expect(juan.locator("li.event", has_text="Again")).to_be_visible()
