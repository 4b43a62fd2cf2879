"""Two people talk."""

import asyncio
import re

import pytest
from playwright.async_api import Locator, expect

from tests.browser.people import People
from tests.browser.person import Person

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVER_ENV = {"TERTULIA_PRESENCE__GRACE_S": "0.2"}
REACTIONS = {"like": "👍", "love": "❤️", "laughing": "😂", "amazed": "😮", "sad": "😢", "angry": "😠"}
COUNT_SOUNDS = """
    window.sounds = 0;
    const make = AudioContext.prototype.createOscillator;
    AudioContext.prototype.createOscillator = function () {
      window.sounds += 1;
      return make.call(this);
    };
"""
REPORT_SOUNDS = """
    const make = AudioContext.prototype.createOscillator;
    AudioContext.prototype.createOscillator = function () {
      window.sounded();
      return make.call(this);
    };
"""
TONES = 2
"""A sound is made of so many."""


async def two_talking(people: People) -> tuple[Person, Person]:
    """Ana and Juan, each with the conversation open in which Juan has said hello."""
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    await juan.talk_to(ana)
    await juan.say("Hola Ana!")
    await ana.open("Juan Pérez")
    await expect(ana.message("Hola Ana!")).to_be_visible()
    return ana, juan


def quote_of(person: Person, text: str) -> Locator:
    return person.message(text).locator(".quote")


async def test_two_people_sign_up_and_talk(people: People) -> None:
    """What one says the other reads, with picture, time and day; ticks, unread counts and typing follow."""
    ana, juan = await people.signed_up("Ana Gómez", "Juan Pérez")
    await juan.talk_to(ana)
    await juan.say("Hola Ana!")
    await expect(juan.tick("Hola Ana!", "Sent")).to_be_attached()
    await expect(juan.log.locator(".separator.day")).to_have_text("Today")

    await expect(ana.room("Juan Pérez")).to_contain_text("Hola Ana!")
    await expect(ana.room("Juan Pérez").locator(".badge")).to_contain_text("1 unread")
    await expect(ana.page).to_have_title("(1) Tertulia")
    await ana.open("Juan Pérez")
    await expect(ana.message("Hola Ana!").locator(".avatar")).to_have_text("JP")
    await expect(ana.message("Hola Ana!").locator("time")).to_have_text(re.compile(r"\d+:\d\d"))
    await expect(ana.log.locator(".separator.unread")).to_have_text("New messages")
    await expect(juan.tick("Hola Ana!", "Read")).to_be_attached()
    await expect(ana.room("Juan Pérez").locator(".badge")).to_have_count(0)
    await expect(ana.page).to_have_title("Tertulia")

    await ana.box.press_sequentially("Bu")
    await expect(juan.page.locator(".typing")).to_have_text("Ana Gómez is typing")
    await expect(juan.room("Ana Gómez")).to_contain_text("typing…")
    await ana.box.fill("")
    await expect(juan.page.locator(".typing")).to_be_empty()
    await ana.say("Buenas!")
    await expect(juan.message("Buenas!")).to_be_visible()
    await expect(juan.room("Ana Gómez")).to_contain_text("Buenas!")


async def test_a_message_is_answered_with_a_quote(people: People) -> None:
    """The quote leads to the message and follows its edits and its deletion."""
    ana, juan = await two_talking(people)
    await ana.choose("Hola Ana!", "Reply")
    await expect(ana.page.locator(".context")).to_contain_text("Reply to Juan Pérez")
    await ana.say("Hola Juan, all well?")
    await expect(quote_of(juan, "all well?")).to_have_text("Juan PérezHola Ana!")
    await quote_of(ana, "all well?").click()
    await expect(ana.message("Hola Ana!").first).to_be_focused()

    await juan.choose("Hola Ana!", "Edit")
    await expect(juan.box).to_have_value("Hola Ana!")
    await juan.box.fill("Hola Anita!")
    await juan.box.press("Enter")
    for person in (ana, juan):
        await expect(person.messages.first).to_contain_text("Hola Anita!")
        await expect(person.messages.first.locator(".meta")).to_contain_text("edited")
        await expect(quote_of(person, "all well?")).to_contain_text("Hola Anita!")

    await juan.choose("Hola Anita!", "Delete")
    await juan.confirm("Delete this message")
    for person in (ana, juan):
        await expect(person.messages.first).to_contain_text("This message was deleted")
        await expect(person.messages.first.locator(".tools")).to_have_count(0)
        await expect(quote_of(person, "all well?")).to_contain_text("This message was deleted")


async def test_the_six_reactions(people: People) -> None:
    """Each can be given; another one replaces it, the same one takes it back, and both people see it."""
    ana, juan = await two_talking(people)
    for name, emoji in REACTIONS.items():
        await ana.choose("Hola Ana!", f"React: {name}")
        for person in (ana, juan):
            await expect(person.message("Hola Ana!").locator(".reaction")).to_have_text(emoji)
    await expect(ana.message("Hola Ana!").locator(".reaction")).to_have_attribute("aria-pressed", "true")
    await expect(juan.message("Hola Ana!").locator(".reaction")).to_have_attribute("aria-pressed", "false")
    await juan.message("Hola Ana!").locator(".reaction").click()
    await expect(ana.message("Hola Ana!").locator(".reaction")).to_have_text("😠2")
    await ana.message("Hola Ana!").locator(".reaction").click()
    await expect(juan.message("Hola Ana!").locator(".reaction")).to_have_text("😠")
    await juan.message("Hola Ana!").locator(".reaction").click()
    for person in (ana, juan):
        await expect(person.message("Hola Ana!").locator(".reaction")).to_have_count(0)


async def test_presence_and_last_seen(people: People) -> None:
    ana, juan = await two_talking(people)
    await expect(juan.room("Ana Gómez").locator(".dot.online")).to_be_visible()
    await expect(juan.page.locator(".conversation-bar")).to_contain_text("online")
    await ana.page.close()
    await expect(juan.room("Ana Gómez").locator(".dot.online")).to_have_count(0)
    await expect(juan.page.locator(".conversation-bar")).to_contain_text("last seen")


async def test_a_sound_for_what_is_not_looked_at(people: People) -> None:
    """A message in another room makes a sound, one in the open room does not, and the switch is kept."""
    ana = await people.arrive("Ana Gómez", apart=True)
    await ana.context.add_init_script(COUNT_SOUNDS)
    await ana.sign_up()
    (juan,) = await people.signed_up("Juan Pérez")
    await juan.talk_to(ana)
    await juan.say("Hola!")
    await expect(ana.room("Juan Pérez")).to_contain_text("Hola!")
    assert await ana.page.evaluate("window.sounds") > 0
    await ana.open("Juan Pérez")

    await ana.page.evaluate("window.sounds = 0")
    await juan.say("Are you there?")
    await expect(ana.message("Are you there?")).to_be_visible()
    assert await ana.page.evaluate("window.sounds") == 0

    await ana.button("Sound for new messages").click()
    await ana.page.reload()
    await ana.is_connected()
    await expect(ana.button("Sound for new messages")).to_have_attribute("aria-pressed", "false")
    await ana.page.goto(ana.url)
    await ana.page.locator(".empty").click()
    await juan.say("Hello?")
    await expect(ana.room("Juan Pérez")).to_contain_text("Hello?")
    assert await ana.page.evaluate("window.sounds") == 0


async def test_what_comes_while_one_reads_above(people: People) -> None:
    """The place is kept; a button counts what came and leads to the end, where it is read."""
    ana, juan = await two_talking(people)
    await juan.say("A long one.\n" * 60)
    await expect(ana.message("A long one.")).to_be_visible()
    await ana.log.evaluate("(log) => { log.scrollTop = 0; }")
    await expect(ana.page.locator(".jump")).to_be_visible()
    await juan.say("And one more", "and the last")
    await expect(ana.page.locator(".jump .badge")).to_have_text("2")
    assert await ana.log.evaluate("(log) => log.scrollTop") == 0
    await ana.button("To the newest message, 2 new").click()
    await expect(ana.message("and the last")).to_be_in_viewport()
    await expect(ana.page.locator(".jump")).to_be_hidden()
    await expect(juan.tick("and the last", "Read")).to_be_attached()


async def test_what_was_written_waits_in_its_room(people: People) -> None:
    """A draft stays when one looks elsewhere; the address and Back lead from room to room."""
    ana, juan = await two_talking(people)
    eva = await people.registered("Eva Ruiz")
    await juan.box.fill("Half a thou")
    await juan.talk_to(eva)
    await expect(juan.room("Ana Gómez")).to_contain_text("Draft: Half a thou")
    await juan.page.go_back()
    await expect(juan.page.locator(".conversation h2")).to_have_text("Ana Gómez")
    await expect(juan.box).to_have_value("Half a thou")
    await juan.box.press("Enter")
    await expect(ana.message("Half a thou")).to_be_visible()
    await juan.page.reload()
    await expect(juan.page.locator(".conversation h2")).to_have_text("Ana Gómez")
    await expect(juan.message("Half a thou")).to_be_visible()


async def test_an_edit_leaves_alone_what_is_being_written(people: People) -> None:
    """A half-written reply comes back after an edit and after one that is given up."""
    ana, juan = await two_talking(people)
    await ana.say("All well?")
    await juan.choose("All well?", "Reply")
    await juan.box.fill("Half a thou")
    await juan.choose("Hola Ana!", "Edit")
    await expect(juan.box).to_have_value("Hola Ana!")
    await juan.box.press("Escape")
    await expect(juan.box).to_have_value("Half a thou")
    await juan.choose("Hola Ana!", "Edit")
    await juan.box.fill("Hola Anita!")
    await juan.box.press("Enter")
    await expect(ana.message("Hola Anita!")).to_be_visible()
    await expect(juan.box).to_have_value("Half a thou")
    await juan.box.press("Enter")
    await expect(quote_of(ana, "Half a thou")).to_contain_text("All well?")


class Sounds:
    """Counts the tones that the tabs of one browser make."""

    def __init__(self) -> None:
        self.made = 0
        self._changed = asyncio.Condition()

    async def listen(self, person: Person) -> None:
        await person.context.expose_function("sounded", self._sounded)
        await person.context.add_init_script(REPORT_SOUNDS)

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(lambda: self.made >= count)

    async def _sounded(self) -> None:
        async with self._changed:
            self.made += 1
            self._changed.notify_all()


async def test_one_sound_for_all_tabs(people: People) -> None:
    """However many do not show a message, and none when another tab does."""
    ana = await people.arrive("Ana Gómez", apart=True)
    sounds = Sounds()
    await sounds.listen(ana)
    await ana.sign_up()
    juan, eva = await people.signed_up("Juan Pérez", "Eva Ruiz")
    await juan.talk_to(ana)
    await juan.say("Hola!")
    await sounds.reach(TONES)
    first = await ana.open_tab()
    await ana.open("Juan Pérez")

    await juan.say("Seen in the other tab")
    await eva.talk_to(ana)
    for number, text in enumerate(("Seen nowhere", "Seen nowhere either"), start=2):
        await eva.say(text)
        for page in (first, ana.page):
            await expect(page.locator(".room", has_text=text)).to_be_visible()
        await sounds.reach(number * TONES)
    assert sounds.made == 3 * TONES
