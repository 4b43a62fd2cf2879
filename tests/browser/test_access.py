"""The page for everybody: both themes, every size, English and Spanish."""

from typing import Literal

import pytest
from playwright.async_api import expect

from server.domain.errors import ChatError
from tests.browser.chromium import axe_source
from tests.browser.people import People
from tests.browser.person import PASSWORD, Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

PHONE, TABLET, DESKTOP = (360, 720), (768, 1024), (1440, 900)
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WORDS_OF = "async (code) => Object.keys(Object.values(await import(`/static/ui/words-${code}.js`))[0])"
RUN_AXE = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    const where = (nodes) => nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ");
    return violations.map(({ id, nodes }) => `${id}: ${where(nodes)}`);
}"""


class Checked:
    """Looks at a page in both themes, with axe and the camera, and at its width."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.source = axe_source()

    async def look(self, name: str) -> None:
        page = self.person.page
        if not await page.evaluate("'axe' in window"):
            await page.evaluate(self.source)
        for theme in THEMES:
            await page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            await self.person.shot(f"{name}-{theme}")
            violations: list[str] = await page.evaluate(RUN_AXE)
            assert violations == [], (name, theme, violations)
        assert await self.person.sticking_out() == [], name


async def fonts_of(person: Person, selector: str) -> set[str]:
    """The names of the fonts that the text of an element is drawn with."""
    devtools = await person.context.new_cdp_session(person.page)
    for domain in ("DOM", "CSS"):
        await devtools.send(f"{domain}.enable")
    root = (await devtools.send("DOM.getDocument"))["root"]["nodeId"]
    found = await devtools.send("DOM.querySelector", {"nodeId": root, "selector": selector})
    drawn = await devtools.send("CSS.getPlatformFontsForNode", {"nodeId": found["nodeId"]})
    await devtools.detach()
    return {font["familyName"] for font in drawn["fonts"]}


async def natural_conversation(ana: Person, juan: Person) -> None:
    """Something of everything in one room, seen by Juan."""
    await juan.talk_to(ana)
    await juan.say("Hi Ana! Did you find a place for Saturday?")
    await ana.open("Juan Pérez")
    await ana.say("I did: the little one by the market")
    await ana.say("They take bookings at https://example.org/book for up to ten")
    await juan.choose("I did: the little one", "React: love")
    await juan.choose("They take bookings", "Reply")
    await juan.say("Perfect, I will do that now")
    await juan.say("Nine o'clok?")
    await juan.choose("Nine o'clok?", "Edit")
    await juan.box.fill("Nine o'clock?")
    await juan.box.press("Enter")
    await juan.say("oops, wrong chat")
    await juan.choose("oops, wrong chat", "Delete")
    await juan.confirm("Delete this message")
    await expect(juan.message("This message was deleted")).to_be_visible()
    await ana.say("👍", "Nine it is. Shall I tell the others?")
    await expect(juan.tick("Nine o'clock?", "Read")).to_be_attached()


async def test_axe_finds_nothing(people: People) -> None:
    """In every main state of the page, in both themes, on a phone and on a desktop."""
    juan = await people.arrive("Juan Pérez", apart=True)
    page, checked = juan.page, Checked(juan)
    await page.goto(juan.url)
    await checked.look("sign-in")
    await juan.button("Sign up").click()
    await checked.look("sign-up")
    await juan.sign_up()
    await checked.look("welcome")
    ana, eva = await people.signed_up("Ana Gómez", "Eva Ruiz")
    await natural_conversation(ana, juan)
    await eva.make_group("Book club", juan, ana)
    await eva.say("Next one: the long one", "Who brings cake?")
    await expect(juan.room("Book club").locator(".badge")).to_contain_text("2 unread")
    await ana.box.press_sequentially("So")
    await expect(juan.page.locator(".typing")).to_contain_text("typing")
    await checked.look("conversation")
    await ana.box.fill("")

    await juan.message("Nine it is").hover()
    await juan.message("Nine it is").locator("[data-tool=more]").click()
    await checked.look("message-menu")
    await page.keyboard.press("Escape")
    for tab in ("Person", "Group", "Public rooms"):
        await juan.new(tab)
        await expect(juan.dialog.locator(".people li, .nothing-found:not(:empty)").first).to_be_visible()
        await checked.look(f"new-{tab.split()[0].lower()}")
        await page.keyboard.press("Escape")
    await juan.open("Book club")
    await juan.button("About this room").click()
    await expect(juan.dialog.locator(".member")).to_have_count(3)
    await checked.look("members")
    await juan.dialog.get_by_role("button", name="Close").click()
    await juan.choose_account("Name and picture")
    await checked.look("profile")
    await page.keyboard.press("Escape")

    await page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    await checked.look("phone-group")
    await juan.button("Back to the conversations").click()
    await checked.look("phone-list")
    await juan.open("Ana Gómez")
    await checked.look("phone-conversation")
    juan.may("ERR_INTERNET_DISCONNECTED")
    await juan.context.set_offline(True)
    await juan.say("Not there yet")
    await expect(juan.pill).to_contain_text("Reconnecting")
    await checked.look("phone-offline")
    await juan.button("Back to the conversations").click()
    await expect(juan.pill).to_contain_text("Reconnecting")
    await checked.look("phone-reconnecting")


async def test_every_size(people: People) -> None:
    """A phone shows the list or the conversation, larger screens both; nothing sticks out."""
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.talk_to(await people.registered("Ana Gómez"))
    await juan.say("A message that is long enough to be wrapped on each of these screens, " * 3)
    in_list, in_room = juan.room("Ana Gómez"), juan.box
    for width, height in (DESKTOP, TABLET, PHONE):
        await juan.page.set_viewport_size({"width": width, "height": height})
        await expect(in_room).to_be_in_viewport()
        await expect(in_list).to_be_visible(visible=(width, height) != PHONE)
        assert await juan.sticking_out() == []
        await juan.shot(f"size-{width}")
    await juan.button("Back to the conversations").click()
    await expect(in_list).to_be_in_viewport()
    await expect(in_room).to_be_hidden()
    assert await juan.sticking_out() == []


async def test_with_a_finger(people: People) -> None:
    """No keyboard comes up by itself, Enter is a new line, and what needs hovering elsewhere is tapped."""
    juan = await people.arrive("Juan Pérez", PHONE, has_touch=True, is_mobile=True)
    await juan.sign_up()
    await juan.talk_to(await people.registered("Ana Gómez"))
    await expect(juan.box).not_to_be_focused()
    await juan.box.tap()
    await juan.page.keyboard.type("One")
    await juan.page.keyboard.press("Enter")
    await juan.page.keyboard.type("two")
    await juan.button("Send").tap()
    await expect(juan.message("One").locator(".text")).to_have_text("One\ntwo")
    await juan.message("One").locator("[data-tool=more]").tap()
    await juan.page.get_by_role("menuitemradio", name="React: love").tap()
    await expect(juan.message("One").locator(".reaction")).to_have_text("❤️")
    await juan.shot("phone-touch")


async def test_text_and_emoji_have_fonts_of_their_own(people: People) -> None:
    """Fonts of emoji have digits and a space as well, and those of text have some emoji."""
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.talk_to(await people.registered("Ana Gómez"))
    await juan.say("There are 3 of us at 9:45")
    await expect(juan.tick("3 of us", "Sent")).to_be_attached()
    for selector in (".text", ".meta time", ".self .name"):
        assert not any("Emoji" in font for font in await fonts_of(juan, selector)), selector
    await juan.message("3 of us").hover()
    await juan.message("3 of us").locator("[data-tool=more]").click()
    thumb, *others = [await fonts_of(juan, f".palette :nth-child({place})") for place in range(1, 7)]
    assert others == [thumb] * 5


async def test_the_time_stands_beside_the_text(people: People) -> None:
    """At its end: on the right of what is written from left to right, else on the left, never upon it."""
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.talk_to(await people.registered("Ana Gómez"))
    for text, is_rightward in (("Hello", True), ("\u05e9\u05dc\u05d5\u05dd?", False)):
        await juan.say(text)
        await expect(juan.tick(text, "Sent")).to_be_attached()  # from here on it is not drawn anew
        said, told = [
            await juan.message(text).locator(part).evaluate("(part) => part.getBoundingClientRect().toJSON()")
            for part in (".text", ".meta")
        ]
        gap = told["left"] - said["right"] if is_rightward else said["left"] - told["right"]
        assert gap > 8, (text, said, told)
        await expect(juan.message(text).locator("time")).to_have_css("direction", "ltr")


async def test_emoji_alone_are_large(people: People) -> None:
    """Up to three, flags and families too."""
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.talk_to(await people.registered("Ana Gómez"))
    for text, is_large in (("\U0001f1ea\U0001f1f8 \U0001f389", True), ("\U0001f389 \u00d73", False)):
        await juan.say(text)
        await expect(juan.message(text).locator(".jumbo")).to_have_count(int(is_large))


async def test_in_spanish(people: People) -> None:
    """The browser's language decides, English where it has none; both know the same words and each code."""
    eva = await people.arrive("Eva Ruiz", locale="es-AR")
    await eva.page.goto(eva.url)
    await expect(eva.page.locator("html")).to_have_attribute("lang", "es")
    await eva.button("Registrarse").click()
    await eva.page.get_by_label("Usuario").fill(eva.username)
    await eva.page.get_by_label("Tu nombre").fill(eva.name)
    await eva.page.get_by_label("Contraseña").fill(PASSWORD)
    await eva.button("Registrarse").click()
    await expect(eva.pill).to_have_text("Conectado")
    await expect(eva.page.get_by_role("heading", name="Hola, Eva Ruiz")).to_be_visible()
    await eva.shot("welcome-spanish")
    english, spanish = [await eva.page.evaluate(WORDS_OF, language) for language in ("en", "es")]
    assert english == spanish
    assert {f"error_{error.code}" for error in ChatError.__subclasses__()} <= set(english)

    other = await people.arrive("Otto", locale="de-DE")
    await other.page.goto(other.url)
    await expect(other.button("Sign up")).to_be_visible()
