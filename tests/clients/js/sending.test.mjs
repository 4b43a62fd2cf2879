// What one writes reaches the server once, in order, and whatever is refused is shown.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { memoryStorage, settled } from "./fakes.mjs";
import { ME, OTHERS } from "./model.mjs";
import { asked, contents, next, pass, reconnect, serve, started, stopTime } from "./world.mjs";

const [ANA] = OTHERS;

beforeEach(stopTime);
afterEach(() => mock.timers.reset());

test("messages are sent the oldest first, one at a time, and again with the same ids after a lost ack", async () => {
  const world = await started();
  const ids = ["one", "two", "three"].map((text) => world.client.send("a", text));
  await settled();
  assert.equal(world.socket.asked.length, 1, "one at a time");
  const { payload } = world.socket.take("chat_message");
  world.model.emit = () => {};
  world.model.answer("chat_message", payload);
  await reconnect(world);
  await serve(world);
  assert.deepEqual(contents(world), ["one", "two", "three"]);
  assert.deepEqual(asked(world, "chat_message").map((each) => each.client_msg_id), [ids[0], ...ids]);
  assert.deepEqual(world.client.pending("a"), []);
});

test("what was written before a reload is sent after it, and only once by two tabs", async () => {
  const storage = memoryStorage();
  const first = await started({ storage });
  first.socket.drop();
  const ids = ["one", "two"].map((text) => first.client.send("a", text));
  first.client.stop();
  const second = await started({ storage, hasFirst: false });
  const third = await started({ storage, hasFirst: false });
  await serve(second);
  await serve(third);
  assert.deepEqual(asked(second, "chat_message").map((each) => each.client_msg_id), ids);
  assert.deepEqual(asked(third, "chat_message").slice(1), []);
  assert.deepEqual([second.client.pending("a"), third.client.pending("a")], [[], []]);
});

test("what a tab that was closed has left is sent by another one, when it connects next", async () => {
  const storage = memoryStorage();
  const [closed, other] = [await started({ storage }), await started({ storage })];
  closed.socket.drop();
  closed.client.send("a", "left behind");
  closed.client.stop();
  await reconnect(other);
  await serve(other);
  assert.deepEqual(contents(other), ["left behind"]);
});

test("one's own message that is heard before its ack waits no longer", async () => {
  const world = await started();
  await Promise.all([world.client.open("a"), serve(world)]);
  world.client.send("a", "hello");
  await settled();
  const { payload } = world.socket.take("chat_message");
  world.model.answer("chat_message", payload);
  assert.deepEqual(world.client.pending("a"), []);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["hello"]);
  await reconnect(world);
  await serve(world);
  assert.equal(asked(world, "chat_message").length, 1);
});

test("too fast: it waits as long as it is told to, and goes on where it was", async () => {
  const world = await started();
  world.client.send("a", "one");
  await settled();
  world.socket.take("chat_message").refuse("rate_limited", { retry_after_ms: 4_000 });
  await pass(3_000);
  world.client.send("a", "two");
  await settled();
  assert.equal(asked(world, "chat_message").length, 1, "writing another one does not hurry it");
  await pass(1_500);
  await serve(world);
  assert.deepEqual(contents(world), ["one", "two"]);
});

test("trouble of the server is waited for, longer each time", async () => {
  const world = await started();
  world.client.send("a", "one");
  const at = [];
  for (const code of ["unavailable", "draining", "unavailable", "token_expired", "unavailable", "draining"]) {
    (await next(world, "chat_message")).refuse(code);
    at.push(Date.now());
  }
  (await next(world, "chat_message")).refuse("unavailable");
  at.push(Date.now());
  const pauses = at.slice(1).map((each, index) => each - at[index]);
  assert.ok(pauses[0] <= 1_500 && pauses.at(-1) >= 14_000 && Math.max(...pauses) <= 31_000, `${pauses}`);
  await pass(31_000);
  await serve(world);
  assert.deepEqual(contents(world), ["one"]);
});

test("what is refused is marked with all there is to say, and the others go on", async () => {
  const world = await started();
  const codes = ["invalid", "forbidden", "not_found", "internal", "too_large"];
  const ids = codes.map((code) => world.client.send("a", code));
  world.client.send("a", "fine");
  for (const code of codes) {
    await settled();
    world.socket.take("chat_message").refuse(code, { field: "content", error_id: "e1" });
  }
  await serve(world);
  assert.deepEqual(contents(world), ["fine"]);
  const errors = codes.map((code) => ({ code, message: code, field: "content", errorId: "e1" }));
  assert.deepEqual(world.client.pending("a").map(({ error }) => error), errors);
  await reconnect(world);
  await serve(world);
  assert.deepEqual(contents(world), ["fine"], "they are not tried again by themselves");
  world.client.discard(ids[1]);
  world.client.retry(ids[0]);
  await serve(world);
  assert.deepEqual(contents(world), ["fine", "invalid"]);
  assert.equal(asked(world, "chat_message").at(-1).client_msg_id, ids[0]);
  assert.deepEqual(world.client.pending("a").map(({ content }) => content), codes.slice(2));
});

test("a message whose id stands for another one is sent again with a new id", async () => {
  const world = await started();
  const id = world.client.send("a", "hello");
  await settled();
  world.socket.take("chat_message").refuse("conflict");
  await settled();
  world.client.retry(id);
  await serve(world);
  assert.deepEqual(contents(world), ["hello"]);
  assert.notEqual(asked(world, "chat_message").at(-1).client_msg_id, id);
  assert.deepEqual(world.client.pending("a"), []);
});

test("what waits for a room goes with it", async () => {
  const world = await started();
  world.client.send("a", "too late");
  await settled();
  world.socket.take("chat_message").refuse("rate_limited", { retry_after_ms: 5_000 });
  world.model.leave(world.room);
  assert.deepEqual(world.client.pending("a"), []);
  await pass(6_000);
  assert.equal(asked(world, "chat_message").length, 1);
});

test("what is refused for a room that one is not in is not kept, whenever that is known", async () => {
  for (const isKnownFirst of [true, false]) {
    const storage = memoryStorage();
    const before = await started({ storage });
    before.socket.drop();
    before.client.send("a", "too late");
    before.client.stop();
    const world = await started({ storage, hasFirst: false });
    world.room.members.delete(ME.id);
    const sync = world.socket.take("sync");
    const message = world.socket.take("chat_message");
    const answers = [() => sync.answer(world.model.answer("sync", sync.payload)), () => message.refuse("not_found")];
    for (const answer of isKnownFirst ? answers : answers.reverse()) {
      answer();
      await settled();
    }
    assert.deepEqual([world.client.pending(), storage.length], [[], 0]);
  }
});

test("one's own message that a sync brings is not sent again", async () => {
  const world = await started();
  await Promise.all([world.client.open("a"), serve(world)]);
  world.client.send("a", "hello");
  await settled();
  const { payload } = world.socket.take("chat_message");
  world.model.emit = () => {};
  world.model.answer("chat_message", payload);
  await reconnect(world);
  const again = world.socket.take("chat_message");
  await serve(world);
  assert.deepEqual(world.client.pending("a"), []);
  again.answer(world.model.answer("chat_message", again.payload));
  await settled();
  assert.deepEqual(contents(world), ["hello"]);
});

test("an answer without the id that was sent still ends the waiting", async () => {
  const world = await started();
  world.client.send("a", "hello");
  await settled();
  const { payload, answer } = world.socket.take("chat_message");
  world.model.emit = () => {};
  const { message } = world.model.answer("chat_message", payload);
  answer({ message: { ...message, client_msg_id: null }, duplicate: false });
  await serve(world);
  assert.equal(asked(world, "chat_message").length, 1);
});

test("reading is said once for the same message, however often the page is drawn", async () => {
  const world = await started();
  world.model.send(world.room, ANA, "hello");
  const calls = [1, 2, 3].map(() => world.client.read("a"));
  await serve(world);
  await Promise.all(calls);
  await world.client.read("a");
  assert.deepEqual(asked(world, "read_message"), [{ room_id: "a", seq: 1 }]);
  assert.equal(world.client.book.room("a").unread, 0);
});

test("typing is said every three seconds while it goes on, and its end once", async () => {
  const world = await started();
  world.client.type("a", false);
  for (let key = 0; key < 8; key += 1) {
    world.client.type("a", true);
    await pass(1_000);
  }
  world.client.type("a", false);
  world.client.type("a", false);
  assert.deepEqual(asked(world, "typing").map((each) => each.is_typing), [true, true, true, false]);
  world.socket.drop();
  world.client.type("a", true);
  assert.equal(asked(world, "typing").length, 4);
});
