// Whatever overtakes what, in the end the client holds what the server holds: schedules by chance, over the model.

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Client } from "../../../static/client.js";
import { FakeSocket, fakeSession, memoryStorage, settled } from "./fakes.mjs";
import { ME, Model, OTHERS } from "./model.mjs";

const RUNS = Number(process.env.TERTULIA_SCHEDULES ?? 60);
const FIRST = Number(process.env.TERTULIA_FIRST_SCHEDULE ?? 1);
const STEPS = 200;
const LONG_MS = 60_000;

/** Numbers from 0 to 1, the same ones for a seed (mulberry32). */
function chance(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One client on one model. Events reach the connection some time after they are made, answers when they are made. */
class World {
  published = [];
  onTheWay = [];
  written = 0;

  constructor(seed) {
    this.random = chance(seed);
    this.model = new Model((event, payload) => this.published.push({ event, payload }));
    for (const id of ["a", "b", "c"]) this.model.addRoom(id);
    this.model.addRoom("large", { isLarge: true });
    const io = (_, options) => (this.socket = new FakeSocket(options));
    this.client = new Client({ io, session: fakeSession(ME), storage: memoryStorage() });
    this.client.start();
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  /** [weight, what happens] of all that may happen next. */
  actions() {
    const { socket, model } = this;
    const room = this.pick([...model.rooms.values()]);
    const message = this.pick(room.messages);
    const held = this.pick(model.mine);
    return [
      [8, () => this.publish()],
      [12, () => this.deliver()],
      [12, () => this.process()],
      [6, () => model.send(room, this.pick(OTHERS), this.text(), { quotes: message ? message.seq : null })],
      [3, () => message && model.edit(room, message, this.text())],
      [1, () => message && model.remove(room, message)],
      [4, () => message && this.react(room, message)],
      [1, () => model.tellHeld()],
      [1, () => this.flood(room)],
      [0.5, () => room.members.has(ME.id) ? model.leave(room) : model.join(room)],
      [4, () => held && this.client.book.room(held.id) && this.client.open(held.id).catch(() => {})],
      [2, () => held && this.client.loadOlder(held.id).catch(() => {})],
      [2, () => held && this.client.send(held.id, this.text())],
      [1, () => held && this.client.read(held.id).catch(() => {})],
      [1, () => socket.connected && this.drop()],
      [6, () => !socket.connected && this.connect()],
      [2, () => mock.timers.tick(this.pick([100, 1_000, 5_000, 30_000]))],
      [0.2, () => this.restore()],
    ];
  }

  text() {
    return `text ${(this.written += 1)}`;
  }

  async step() {
    const actions = this.actions();
    let left = this.random() * actions.reduce((sum, [weight]) => sum + weight, 0);
    const [, act] = actions.find(([weight]) => (left -= weight) < 0);
    act();
    await settled();
    for (const roomId of this.model.rooms.keys()) this.checkRun(roomId);
  }

  react(room, message) {
    const user = this.pick([ME, ...OTHERS]);
    this.model.react(room, message, user.id, this.pick(["like", "love", null]));
  }

  /** More changes than `sync` gives singly. */
  flood(room) {
    for (let count = 0; count < 15; count += 1) this.model.send(room, this.pick(OTHERS), this.text());
  }

  publish() {
    const next = this.published.shift();
    if (next) this.onTheWay.push(next);
  }

  deliver() {
    if (!this.socket.connected) return;
    const next = this.onTheWay.shift();
    if (next?.event) this.socket.deliver(next.event, next.payload);
    next?.answer?.();
  }

  process() {
    const question = this.socket.asked.shift();
    if (!question) return;
    const data = this.model.answer(question.event, question.payload);
    const isOver = this.random() < 0.05;
    const refusal = isOver ? ["rate_limited", { retry_after_ms: 50 }] : ["not_found"];
    // What is refused for its rate has been looked at no further, so nothing is done: only reads are safe to refuse here.
    if (isOver && question.event === "sync") this.onTheWay.push({ answer: () => question.refuse(...refusal) });
    else this.onTheWay.push({ answer: () => (data === null ? question.refuse("not_found") : question.answer(data)) });
  }

  drop() {
    this.onTheWay = this.onTheWay.filter(({ event }) => event);
    this.socket.drop();
  }

  connect({ recovered = this.random() < 0.4 } = {}) {
    if (!recovered || this.isRestored) {
      this.onTheWay = [];
      // What was told while one was away is heard no more, except what is late.
      if (this.random() < 0.7) this.published = [];
    }
    this.socket.accept({ recovered: recovered && !this.isRestored });
    this.isRestored = false;
  }

  restore() {
    if (this.socket.connected) this.drop();
    this.published = [];
    this.isRestored = true;
    this.model.restore();
  }

  /** Let all be told and answered, and all waits end. */
  async comeToRest() {
    if (!this.socket.connected) this.connect();
    this.model.tellHeld();
    for (let quiet = 0; quiet < 5; ) {
      const isBusy = this.published.length + this.onTheWay.length + this.socket.asked.length > 0;
      while (this.published.length > 0) this.publish();
      while (this.socket.asked.length > 0) this.process();
      while (this.onTheWay.length > 0) this.deliver();
      await settled();
      mock.timers.tick(LONG_MS);
      await settled();
      quiet = isBusy ? 0 : quiet + 1;
    }
  }

  checkRun(roomId) {
    const timeline = this.client.book.timeline(roomId);
    const seqs = timeline.list().map(({ seq }) => seq);
    assert.ok(seqs.every((seq, index) => seq >= timeline.firstSeq && (index === 0 || seq > seqs[index - 1])), `${roomId}: ${seqs}`);
  }

  async checkAll() {
    const { book } = this.client;
    const mine = this.model.mine.map(({ id }) => id).sort();
    assert.deepEqual(book.rooms().map(({ id }) => id).sort(), mine);
    for (const room of this.model.mine) {
      const { last_seq, unread, last_message: last } = book.room(room.id);
      const wanted = room.view();
      assert.deepEqual({ last_seq, unread, last: last?.content }, {
        last_seq: wanted.last_seq, unread: wanted.unread, last: wanted.last_message?.content,
      }, room.id);
      if (book.timeline(room.id).rev !== null) await this.checkTimeline(room);
      const own = room.messages.map(({ client_msg_id: id }) => id).filter(Boolean);
      assert.equal(new Set(own).size, own.length, "nothing was posted twice");
    }
    // Refused at most for a room that one was out of for a while.
    const waiting = mine.flatMap((id) => this.client.pending(id)).filter(({ error }) => error?.code !== "not_found");
    assert.deepEqual(waiting, []);
  }

  async checkTimeline(room) {
    const timeline = this.client.book.timeline(room.id);
    const shown = () => room.messages.slice(timeline.firstSeq - 1).map((message) => room.shown(message));
    assert.equal(timeline.rev, room.rev);
    assert.deepEqual(timeline.list(), shown());
    while (timeline.hasOlder) {
      const loading = this.client.loadOlder(room.id);
      await this.comeToRest();
      await loading;
    }
    assert.equal(timeline.firstSeq, 1);
    assert.deepEqual(timeline.list(), shown());
  }
}

test("every schedule ends with what the server holds", async () => {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  for (let seed = FIRST; seed < FIRST + RUNS; seed += 1) {
    const world = new World(seed);
    mock.method(Math, "random", world.random);
    try {
      for (let step = 0; step < STEPS; step += 1) await world.step();
      await world.comeToRest();
      await world.checkAll();
    } catch (error) {
      error.message = `schedule ${seed}: ${error.message}`;
      throw error;
    }
    world.client.stop();
    mock.restoreAll();
  }
});
