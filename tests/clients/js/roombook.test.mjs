// What is known of rooms and people, when answers are older than what was heard before they came.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { RoomBook } from "../../../static/client/roombook.js";

const ME = { id: "me", username: "me", display_name: "Me", avatar_url: null };
const ANA = { id: "ana", username: "ana", display_name: "Ana", avatar_url: null };

function room(id, lastSeq, more = {}) {
  const last = lastSeq > 0 ? message(id, lastSeq) : null;
  return {
    id, kind: "group", name: id, peer: null, created_at: "2026-01-01", member_count: 2, first_seq: 1, last_seq: lastSeq, last_message: last,
    role: "member", last_read_seq: 0, unread: lastSeq, ...more,
  };
}

function message(roomId, seq, more = {}) {
  return {
    id: `${roomId}${seq}`, room_id: roomId, seq, rev: seq, content: `${seq}`, sender: ANA, reply_to: null, reactions: {},
    reaction_counts: {}, edited_at: null, deleted_at: null, created_at: `2026-01-01T00:00:${String(seq).padStart(2, "0")}Z`, ...more,
  };
}

function entry(view, { changes = [], read = null, ...more } = {}) {
  return { room: view, rev: view.last_seq, changes, read, truncated: false, reset: false, ...more };
}

function page(rooms, { left = [], online = [] } = {}) {
  return { me: ME, rooms, left, online };
}

function newBook() {
  const told = [];
  return { book: new RoomBook(ME, (type, detail) => told.push([type, detail])), told };
}

test("a room that one left does not come back with an older page", () => {
  const { book, told } = newBook();
  const asked = book.asked({});
  book.dropRoom("a", "removed");
  book.takePage(page([entry(room("a", 3))]), asked);
  assert.equal(book.room("a"), undefined);
  assert.deepEqual(told.filter(([type]) => type === "left"), [], "it was never shown");
  book.noteJoined("a");
  book.takePage(page([entry(room("a", 4))]), book.asked({ a: null }));
  assert.equal(book.room("a").last_seq, 4);
});

test("a room that one joined is not dropped by what was asked before", () => {
  const { book } = newBook();
  const asked = book.asked({ a: 3 });
  book.keepRoom(room("a", 3));
  book.takePage(page([], { left: ["a"] }), asked);
  book.takeEnd(new Set(), new Set(), asked.at);
  assert.ok(book.room("a"));
  book.takeEnd(new Set(), new Set(), book.now);
  assert.equal(book.room("a"), undefined);
});

test("the answer to a join that came after the removal is not kept", () => {
  const { book } = newBook();
  const askedAt = book.now;
  book.dropRoom("a", "removed");
  book.keepRoom(room("a", 3), askedAt);
  assert.equal(book.room("a"), undefined);
});

test("an answer older than an event takes nothing back", () => {
  for (const isKnown of [true, false]) {
    const { book } = newBook();
    if (isKnown) book.keepRoom(room("a", 3));
    const asked = book.asked({});
    book.hearMessage(message("a", 4));
    book.noteRead("a", "me", 4);
    book.hearMessage(message("a", 5));
    if (isKnown) book.changeRoom("a", { name: "New name", member_count: 3 });
    book.takePage(page([entry(room("a", 3))]), asked);
    const { last_seq, unread, last_message, name } = book.room("a");
    assert.deepEqual([last_seq, unread, last_message.seq, name], [5, 1, 5, isKnown ? "New name" : "a"]);
    book.takePage(page([entry(room("a", 3))]), book.asked({}));
    assert.equal(book.room("a").last_seq, 3, "what is asked later is believed");
  }
});

test("a message that is heard before the first answer for its room is missed by it", () => {
  const { book } = newBook();
  const asked = book.asked({ a: null });
  book.hearMessage(message("a", 2));
  book.takePage(page([entry(room("a", 1), { changes: [message("a", 1)] })]), asked);
  assert.deepEqual([book.isIncomplete("a"), book.incomplete()], [true, ["a"]]);
});

test("one's own message is read, others' are not", () => {
  const { book } = newBook();
  book.keepRoom(room("a", 0));
  book.hearMessage(message("a", 1));
  assert.equal(book.room("a").unread, 1);
  book.takeMessage(message("a", 2, { sender: ME }));
  assert.equal(book.room("a").unread, 0);
});

test("the last message follows its edits, and not older ones", () => {
  const { book } = newBook();
  book.keepRoom(room("a", 2));
  book.hearMessage(message("a", 2, { rev: 4, content: "edited" }));
  book.hearMessage(message("a", 1, { rev: 5, content: "an older one" }));
  book.takeMessage(message("a", 2, { rev: 3, content: "before" }));
  assert.equal(book.room("a").last_message.content, "edited");
});

test("who went offline while one was away is offline, and what was heard since counts more", () => {
  const { book } = newBook();
  book.takePage(page([], { online: ["ana", "eva"] }), book.asked({}));
  const asked = book.asked({});
  book.setOnline("juan", true);
  book.setOnline("eva", false);
  book.takePage(page([], { online: ["eva"] }), asked);
  book.takeEnd(new Set(), new Set(["eva"]), asked.at);
  assert.deepEqual(["ana", "eva", "juan"].map((id) => book.isOnline(id)), [false, false, true]);
});

test("a message is read by all once the last of those who are there has read it", () => {
  const { book } = newBook();
  book.takePage(page([entry(room("a", 5), { read: { me: 5, ana: 5, eva: 2 } })]), book.asked({ a: null }));
  assert.equal(book.readByOthers("a"), 2);
  book.changeMember("a", { id: "eva" }, 2, { isIn: false });
  assert.equal(book.readByOthers("a"), 5);
  book.changeMember("a", { id: "juan" }, 3, { isIn: true });
  assert.equal(book.readByOthers("a"), 5, "joining starts at the end");
  book.takePage(page([entry(room("a", 5), { read: null })]), book.asked({ a: 5 }));
  assert.deepEqual([book.readByOthers("a"), book.isLarge("a")], [0, true]);
});

test("who came in is named when they type, also before they have said anything", () => {
  const { book } = newBook();
  book.keepRoom(room("a", 0));
  book.startTyping("a", "juan", "juan-1");
  assert.deepEqual(book.typing("a"), ["juan-1"]);
  book.changeMember("a", { id: "juan", username: "juan-1", display_name: "Juan Pérez" }, 3, { isIn: true });
  assert.deepEqual(book.typing("a"), ["Juan Pérez"]);
  book.close();
});

test("the rooms opened last are named, and the messages of the others are forgotten", () => {
  const { book } = newBook();
  for (let count = 0; count < 505; count += 1) {
    book.takePage(page([entry(room(`r${count}`, 1), { changes: [message(`r${count}`, 1)] })]), book.asked({ [`r${count}`]: null }));
  }
  book.open("r0");
  book.open("new");
  const named = book.toName(500);
  assert.equal(Object.keys(named).length, 500);
  assert.deepEqual([named.r0, named.new, named.r504], [1, null, 1]);
  assert.equal("r1" in named, false);
  assert.equal(book.timeline("r1").rev, null, "to be loaded when it is opened again");
});

test("a database that is another one leaves nothing but what is to be loaded", () => {
  const { book } = newBook();
  book.keepRoom(room("a", 9));
  book.open("a");
  book.takePage(page([entry(room("a", 9), { changes: [message("a", 9)] })]), book.asked({ a: null }));
  book.hearMessage(message("a", 10));
  book.forget();
  assert.deepEqual([book.timeline("a").list(), book.toName(500)], [[], { a: null }]);
  book.takePage(page([entry(room("a", 4), { changes: [message("a", 4)] })]), book.asked({ a: null }));
  assert.deepEqual([book.room("a").last_seq, book.timeline("a").rev], [4, 4]);
});

test("waiting for a room's messages ends when one is not in it, and begins anew when they are dropped", async () => {
  const { book } = newBook();
  const { loaded } = book.open("a");
  book.takePage(page([], { left: ["a"] }), book.asked({ a: null }));
  await assert.rejects(loaded, { code: "not_found" });
  const again = book.open("a").loaded;
  book.takePage(page([entry(room("a", 1), { changes: [message("a", 1)] })]), book.asked({ a: null }));
  await again;
  book.forget();
  assert.notEqual(book.open("a").loaded, again);
});

test("a new profile shows wherever the person is named", () => {
  const { book } = newBook();
  const reply = { reply_to: { id: "a1", seq: 1, sender: ANA, content: "1" }, sender: ME };
  book.keepRoom(room("a", 2, { peer: { ...ANA, status: "online" } }));
  book.open("a");
  book.takePage(page([entry(room("a", 2), { changes: [message("a", 1), message("a", 2, reply)] })]), book.asked({ a: null }));
  book.hearMessage(message("a", 3));
  book.changePerson({ ...ANA, display_name: "Ana María", status: "online", last_seen: null });
  const [first, second] = book.timeline("a").list();
  const names = [first.sender, second.reply_to.sender, book.room("a").last_message.sender].map((person) => person.display_name);
  assert.deepEqual(names, ["Ana María", "Ana María", "Ana María"]);
});

test("somebody is shown typing for seven seconds, or until the message comes", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { book } = newBook();
  book.keepRoom(room("a", 0));
  book.startTyping("a", "ana", "ana");
  book.startTyping("a", "me", "me");
  mock.timers.tick(6_900);
  assert.deepEqual(book.typing("a"), ["ana"]);
  mock.timers.tick(200);
  assert.deepEqual(book.typing("a"), []);
  book.startTyping("a", "ana", "ana");
  book.hearMessage(message("a", 1), { isNew: true });
  assert.deepEqual(book.typing("a"), []);
  mock.timers.reset();
});
