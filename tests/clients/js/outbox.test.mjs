// What was written is kept until the server has it: over reloads, beside other tabs, and without storage.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Outbox } from "../../../static/client/outbox.js";
import { browserStorage } from "../../../static/client/storage.js";
import { memoryStorage } from "./fakes.mjs";

const entry = (id, roomId = "a") => ({ client_msg_id: id, room_id: roomId, content: `text ${id}`, reply_to: null });
const ids = (outbox) => outbox.list().map((each) => each.client_msg_id);

test("it survives a reload, oldest first", () => {
  const storage = memoryStorage();
  const outbox = new Outbox("u", storage);
  const names = ["z", "a", "m", "b"];
  for (const name of names) outbox.add(entry(name));
  outbox.mark("z", { code: "invalid" });
  const reloaded = new Outbox("u", storage);
  assert.deepEqual(ids(reloaded), names);
  assert.deepEqual([reloaded.find("z").error, reloaded.next().client_msg_id], [{ code: "invalid" }, "a"]);
  assert.deepEqual(ids(new Outbox("somebody else", storage)), []);
});

test("two tabs lose none of each other's entries", () => {
  const storage = memoryStorage();
  const [one, other] = [new Outbox("u", storage), new Outbox("u", storage)];
  one.add(entry("1"));
  other.add(entry("2"));
  one.add(entry("3"));
  other.remove("2");
  assert.deepEqual(ids(new Outbox("u", storage)), ["1", "3"]);
  assert.deepEqual([ids(one), ids(other)], [["1", "3"], []]);
});

test("what another tab has sent, thrown away or marked is not sent here", () => {
  const storage = memoryStorage();
  const one = new Outbox("u", storage);
  for (const name of ["1", "2", "3"]) one.add(entry(name));
  const other = new Outbox("u", storage);
  one.remove("1");
  one.mark("2", { code: "invalid" });
  assert.equal(other.next().client_msg_id, "3");
  assert.deepEqual(ids(other), ["2", "3"]);
  one.mark("2", null);
  assert.equal(other.next().client_msg_id, "2");
  one.remove("2");
  other.mark("2", { code: "invalid" });
  assert.equal(other.find("2"), undefined);
  assert.deepEqual(ids(new Outbox("u", storage)), ["3"]);
});

test("what a closed tab has left is taken over in its place", (context) => {
  context.mock.timers.enable({ apis: ["Date"] });
  const storage = memoryStorage();
  const closed = new Outbox("u", storage);
  const outbox = new Outbox("u", storage);
  for (const [tab, name] of [[outbox, "1"], [closed, "2"], [outbox, "3"]]) {
    tab.add(entry(name));
    context.mock.timers.tick(1000);
  }
  outbox.adopt();
  outbox.adopt();
  assert.deepEqual(ids(outbox), ["1", "2", "3"]);
});

test("storage that is full, blocked or missing costs nothing but the reload", () => {
  const blocked = { getItem: fail, setItem: fail, removeItem: fail, key: fail, length: 3 };
  for (const storage of [memoryStorage({ limit: 1 }), blocked, undefined]) {
    const outbox = new Outbox("u", storage);
    for (const name of ["1", "2"]) outbox.add(entry(name));
    assert.equal(outbox.next().client_msg_id, "1");
    outbox.mark("1", { code: "invalid" });
    assert.equal(outbox.next().client_msg_id, "2");
    outbox.remove("2");
    outbox.mark("1", null);
    assert.equal(outbox.next().client_msg_id, "1");
  }
});

test("what stands in storage and is no entry is left alone", () => {
  const storage = memoryStorage();
  storage.setItem("tertulia.outbox.u.x", "{");
  storage.setItem("tertulia.outbox.u.y", "[1]");
  assert.deepEqual(ids(new Outbox("u", storage)), []);
});

test("it is full when two hundred wait", () => {
  const outbox = new Outbox("u", undefined);
  for (let count = 0; count < 200; count += 1) outbox.add(entry(`${count}`));
  assert.equal(outbox.isFull, true);
  outbox.mark("0", { code: "invalid" });
  assert.equal(outbox.isFull, false);
});

test("a browser that forbids even to look at its storage has none", () => {
  Object.defineProperty(globalThis, "localStorage", { configurable: true, get: fail });
  assert.equal(browserStorage(), undefined);
  delete globalThis.localStorage;
});

function fail() {
  throw new Error("SecurityError");
}
