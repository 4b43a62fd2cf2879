// The client knows what the server knows, however late its answers come and whatever overtakes them.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { settled } from "./fakes.mjs";
import { ME, OTHERS } from "./model.mjs";
import { asked, contents, next, pass, reconnect, serve, started, stopTime } from "./world.mjs";

const [ANA] = OTHERS;

beforeEach(stopTime);
afterEach(() => mock.timers.reset());

test("a hundred events that show a gap are repaired by one sync", async () => {
  const world = await started();
  await Promise.all([world.client.open("a"), serve(world)]);
  const before = asked(world, "sync").length;
  world.socket.connected = false;
  world.model.send(world.room, ANA, "missed");
  world.socket.connected = true;
  for (let count = 0; count < 100; count += 1) world.model.send(world.room, ANA, `${count}`);
  await serve(world);
  assert.deepEqual(asked(world, "sync").slice(before), [{ rooms: { a: 0 } }]);
  const shown = world.client.book.timeline("a").list();
  assert.equal(shown.length, 5, "over 12 behind, this model gives the newest five");
  assert.equal(shown.at(-1).content, "99");
});

test("a gap that shows while another one is repaired is repaired next", async () => {
  const world = await started();
  await Promise.all([world.client.open("a"), serve(world)]);
  const miss = () => {
    world.socket.connected = false;
    world.model.send(world.room, ANA, "missed");
    world.socket.connected = true;
    world.model.send(world.room, ANA, "heard");
  };
  miss();
  await settled();
  const question = world.socket.take("sync");
  const answer = world.model.answer("sync", question.payload);
  miss();
  question.answer(answer);
  await serve(world);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["missed", "heard", "missed", "heard"]);
});

test("the reactions of a large room cost it a sync now and then, not one each", async () => {
  const world = await started({ isLarge: true });
  for (let count = 0; count < 3; count += 1) world.model.send(world.room, ANA, `${count}`);
  await Promise.all([world.client.open("a"), serve(world)]);
  const before = asked(world, "sync").length;
  for (let second = 0; second < 60; second += 1) {
    for (const message of world.room.messages) {
      for (const { id } of OTHERS) world.model.react(world.room, message, id, second % 2 ? "like" : "love");
    }
    world.model.tellHeld();
    await serve(world);
    const [shown] = world.client.book.timeline("a").list();
    assert.equal(Object.values(shown.reaction_counts).reduce((sum, count) => sum + count), 3, "the counts are shown at once");
    await pass(1_000);
  }
  const count = asked(world, "sync").length - before;
  assert.ok(count >= 10 && count <= 35, `${count} syncs in a minute for 540 reactions`);
  await pass(6_000);
  await serve(world);
  assert.equal(world.client.book.timeline("a").isBehind, false);
});

test("a sync that fails is asked again on the same connection, later each time", async () => {
  const world = await started({ hasFirst: false });
  const at = [];
  for (const [code, more] of [["rate_limited", { retry_after_ms: 9_000 }], ["unavailable"], ["internal"], ["unavailable"]]) {
    (await next(world, "sync")).refuse(code, more);
    at.push(Date.now());
  }
  await next(world, "sync").then((question) => question.refuse("unavailable"));
  at.push(Date.now());
  await pass(20_000);
  const pauses = at.slice(1).map((each, index) => each - at[index]);
  assert.ok(pauses[0] >= 9_000 && pauses.slice(1).every((pause) => pause >= 500 && pause <= 9_000), `${pauses}`);
  await serve(world);
  assert.equal(world.client.book.rooms().length, 1);
});

test("a connection that is recovered asks for nothing at once, and later what is not recovered", async () => {
  const world = await started();
  await reconnect(world, { recovered: true });
  await pass(4_500);
  assert.equal(asked(world, "sync").length, 1);
  for (let second = 0; second < 60; second += 1) {
    await pass(1_000);
    await serve(world);
  }
  assert.equal(asked(world, "sync").length, 2);
});

test("a first sync that a lost connection broke off is made up for, also when that one is recovered", async () => {
  const world = await started({ hasFirst: false, rooms: ["a", "b", "c"] });
  const question = world.socket.take("sync");
  question.answer(world.model.answer("sync", question.payload));
  await settled();
  await reconnect(world, { recovered: true });
  await serve(world);
  assert.equal(world.client.book.rooms().length, 3);
});

test("a room that one was put into just before the connection was lost is asked for as soon as that is recovered", async () => {
  const world = await started();
  world.model.addRoom("b");
  world.model.join(world.model.rooms.get("b"));
  await settled();
  await reconnect(world, { recovered: true });
  await serve(world);
  assert.deepEqual(world.client.book.rooms().map(({ id }) => id).sort(), ["a", "b"]);
  await reconnect(world, { recovered: true });
  assert.equal(world.socket.asked.length, 0, "once it is there it is asked for no more");
});

test("a room that is opened without a connection is loaded when there is one", async () => {
  const world = await started();
  world.model.send(world.room, ANA, "hello");
  world.socket.drop();
  const opened = world.client.open("a");
  world.socket.open();
  await settled();
  world.socket.accept();
  await Promise.all([opened, serve(world)]);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["hello"]);
  assert.deepEqual(asked(world, "sync").slice(1), [{ rooms: { a: null } }]);
});

test("more changes than an answer holds are asked for to the end", async () => {
  const world = await started();
  await Promise.all([world.client.open("a"), serve(world)]);
  world.socket.drop();
  for (let count = 0; count < 10; count += 1) world.model.send(world.room, ANA, `${count}`);
  world.socket.open();
  await settled();
  world.socket.accept();
  await serve(world);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), contents(world));
  assert.deepEqual(asked(world, "sync").slice(2).map(({ rooms }) => rooms.a), [0, 3, 6, 9]);
});

test("a room that one is put into during the first sync is kept, with what was said before its answer", async () => {
  const world = await started({ hasFirst: false, rooms: ["a", "b"] });
  world.room.members.delete(ME.id);
  const first = world.socket.take("sync");
  const withoutRoom = world.model.answer("sync", first.payload);
  world.model.join(world.room);
  await settled();
  const second = world.socket.take("sync");
  const empty = world.model.answer("sync", second.payload);
  world.model.send(world.room, ANA, "hello");
  second.answer(empty);
  first.answer(withoutRoom);
  await serve(world);
  assert.deepEqual(world.client.book.rooms().map(({ id }) => id).sort(), ["a", "b"]);
  assert.equal(world.client.book.room("a").last_seq, 1);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["hello"]);
});

test("a message that overtakes the answer for a room one was put into is asked for", async () => {
  const world = await started({ rooms: ["a", "b"] });
  world.room.members.delete(ME.id);
  world.model.join(world.room);
  await settled();
  const question = world.socket.take("sync");
  const empty = world.model.answer("sync", question.payload);
  world.model.send(world.room, ANA, "hello");
  question.answer(empty);
  await serve(world);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["hello"]);
});

test("another epoch is noticed by whatever asks first", async () => {
  const world = await started({ rooms: ["a", "b"] });
  for (const content of ["kept", "lost"]) world.model.send(world.room, ANA, content);
  await Promise.all([world.client.open("a"), serve(world)]);
  world.model.restore();
  const opened = world.client.open("b");
  for (let round = 0; round < 4; round += 1) {
    await serve(world);
    await pass(2_000);
  }
  await opened;
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["kept"]);
});

test("a room that one is not in cannot be opened", async () => {
  const world = await started();
  const refused = assert.rejects(world.client.open("nowhere"), { code: "not_found" });
  await serve(world);
  await refused;
});

test("another epoch drops all that this sync has brought already, and loads anew what is open", async () => {
  const world = await started({ rooms: ["a", "b", "c"] });
  world.model.send(world.room, ANA, "kept");
  world.model.send(world.room, ANA, "lost");
  await Promise.all([world.client.open("a"), serve(world)]);
  await reconnect(world);
  const question = world.socket.take("sync");
  question.answer(world.model.answer("sync", question.payload));
  world.model.restore();
  world.model.rooms.get("b").members.delete(ME.id);
  for (let round = 0; round < 4; round += 1) {
    await serve(world);
    await pass(2_000);
  }
  assert.deepEqual(world.client.book.rooms().map(({ id }) => id).sort(), ["a", "c"]);
  assert.deepEqual(world.client.book.timeline("a").list().map(({ content }) => content), ["kept"]);
});

test("somebody else's new message is announced once, one's own never", async () => {
  const world = await started();
  const heard = [];
  world.client.addEventListener("received", ({ detail }) => heard.push(detail.message.content));
  world.model.send(world.room, ANA, "hello");
  world.model.edit(world.room, world.room.messages[0], "hello!");
  world.client.send("a", "hi");
  await serve(world);
  assert.deepEqual(heard, ["hello"]);
});
