// The connection: tokens, refusals, ends, and questions that get no answer.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { AnswerError, Client } from "../../../static/client.js";
import { FakeSocket, fakeSession, memoryStorage, settled } from "./fakes.mjs";

const USER = { id: "me", username: "me", display_name: "Me", avatar_url: null };
const DAY_MS = 24 * 3600 * 1000;

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"], now: DAY_MS }));
afterEach(() => mock.timers.reset());

async function started({ renew, session = fakeSession(USER, renew) } = {}) {
  let socket;
  const io = (url, options) => (socket = new FakeSocket(options));
  const client = new Client({ io, session, storage: memoryStorage() });
  const phases = [];
  client.addEventListener("state", ({ detail }) => phases.push(detail.phase));
  client.start();
  await settled();
  return { client, socket, session, phases };
}

async function connected(options) {
  const all = await started(options);
  all.socket.accept();
  await settled();
  return all;
}

/** Let time pass step by step, as timers begin others. */
async function pass(ms) {
  for (let left = ms; left > 0; left -= 500) {
    mock.timers.tick(Math.min(500, left));
    await settled();
  }
}

const down = () => Promise.reject(new TypeError("fetch failed"));

test("an expired token is renewed once and connects", async () => {
  let renewals = 0;
  const { client, socket } = await started({ renew: async () => `renewed ${(renewals += 1)}` });
  socket.refuse("token_expired", "refresh");
  await settled();
  assert.deepEqual(socket.tokens, ["first", "renewed 1"]);
  socket.accept();
  assert.deepEqual([client.state.phase, renewals], ["connected", 1]);
  socket.drop();
  socket.open();
  socket.refuse("token_expired", "refresh");
  await settled();
  assert.deepEqual([socket.tokens.at(-1), renewals], ["renewed 2", 2]);
});

test("while the server cannot renew, it is asked less and less often, and then it goes on", async () => {
  const asked = [];
  let isDown = true;
  const renew = async () => {
    asked.push(Date.now());
    return isDown ? down() : "renewed";
  };
  const { client, socket } = await started({ renew });
  socket.refuse("token_expired", "refresh");
  await pass(300_000);
  assert.ok(asked.length >= 10 && asked.length <= 25, `asked ${asked.length} times in five minutes`);
  const pauses = asked.slice(1).map((at, index) => at - asked[index]);
  assert.ok(pauses[0] < 2_500 && Math.max(...pauses) <= 31_000 && pauses.slice(-5).every((pause) => pause > 10_000), `${pauses}`);
  assert.deepEqual([client.state.phase, socket.tokens], ["reconnecting", ["first"]]);
  isDown = false;
  await pass(31_000);
  assert.deepEqual(socket.tokens, ["first", "renewed"]);
  client.stop();
});

test("a server that takes no new token either is not asked in a loop", async () => {
  let renewals = 0;
  const { client, socket } = await started({ renew: async () => `renewed ${(renewals += 1)}` });
  const refuse = () => socket.active && socket.refuse("token_expired", "refresh");
  for (let second = 0; second < 120; second += 1) {
    refuse();
    await pass(1_000);
  }
  assert.ok(renewals >= 5 && renewals <= 12, `${renewals} renewals in two minutes`);
  client.stop();
});

test("a login that is over ends it, and nothing is tried any more", async () => {
  let renewals = 0;
  const renew = () => Promise.reject(new AnswerError({ code: "token_revoked", message: `revoked ${(renewals += 1)}` }));
  const { client, socket } = await started({ renew });
  socket.refuse("token_expired", "refresh");
  await pass(120_000);
  assert.deepEqual([client.state, renewals], [{ phase: "ended", code: "token_revoked", message: "revoked 1" }, 1]);
  assert.deepEqual([socket.active, socket.tokens.length], [false, 1]);
});

test("a token that cannot be had before connecting is asked for again, not replaced by nonsense", async () => {
  const session = fakeSession(USER);
  const tokens = [down, down, async () => "late"];
  session.token = () => (tokens.length > 1 ? tokens.shift() : tokens[0])();
  const { client, socket } = await started({ session });
  await pass(10_000);
  assert.deepEqual([socket.tokens, client.state.phase], [["late"], "reconnecting"]);
});

test("a refusal for good says why and stays", async () => {
  const { client, socket, session } = await started();
  socket.refuse("token_revoked", "never");
  await pass(120_000);
  assert.deepEqual([client.state.phase, client.state.code, client.state.message], ["refused", "token_revoked", "refused: token_revoked"]);
  assert.deepEqual([socket.tokens.length, session.user], [1, USER]);
  await assert.rejects(client.call("history", {}), { code: "token_revoked" });
  client.reconnect();
  await settled();
  assert.equal(socket.tokens.length, 2, "only somebody at the page tries again");
});

test("a failed handshake is left to socket.io", async () => {
  const { client, socket } = await started();
  for (const attempt of [1, 2, 3]) {
    socket.fail();
    socket.io.emit("reconnect_attempt", attempt);
  }
  socket.fail();
  await pass(60_000);
  assert.deepEqual(client.state, { phase: "reconnecting", attempt: 3 });
  assert.equal(socket.tokens.length, 1);
});

test("a token that comes when its connection is over is not sent on the next one", async () => {
  const session = fakeSession(USER);
  const waiting = [];
  session.token = () => new Promise((resolve) => waiting.push(resolve));
  const { socket } = await started({ session });
  socket.open();
  for (const [index, give] of waiting.entries()) give(`token ${index}`);
  await settled();
  assert.deepEqual(socket.tokens, ["token 1"]);
});

test("when somebody else signs in, their token is not used", async () => {
  const { client, socket, session } = await connected();
  socket.drop();
  session.user = { ...USER, id: "somebody else" };
  socket.open();
  await settled();
  assert.deepEqual([client.state.phase, client.state.code, socket.tokens.length], ["ended", "unauthenticated", 1]);
});

test("a session that is about to end is renewed in place", async () => {
  const { socket } = await connected();
  socket.deliver("auth_expiring", { expires_in: 60 });
  await settled();
  const question = socket.take("auth_refresh");
  assert.deepEqual(question.payload, { token: "renewed" });
  question.answer({ expires_in: 900 });
});

test("a renewal in place is tried again while there is time, and never in a loop", async () => {
  let renewals = 0;
  const { client, socket } = await connected({ renew: () => ((renewals += 1) < 3 ? down() : Promise.resolve(`renewed ${renewals}`)) });
  for (let second = 0; second < 30; second += 1) {
    // Tokens that last shorter than the notice are always about to end.
    socket.deliver("auth_expiring", { expires_in: 1 });
    socket.asked.filter(({ event }) => event === "auth_refresh").forEach((each) => each.answer({ expires_in: 1 }));
    await pass(1_000);
  }
  assert.ok(renewals >= 4 && renewals <= 9, `${renewals} renewals in half a minute`);
  client.stop();
});

test("a session ended on purpose says so, and asks whether the login is over", async () => {
  for (const [code, renewals] of [["rate_limited", 0], ["token_revoked", 1]]) {
    let asked = 0;
    const { client, socket } = await connected({ renew: async () => `renewed ${(asked += 1)}` });
    socket.deliver("session_ended", { code, message: "ended", retry: "never" });
    socket.drop("io server disconnect");
    await pass(60_000);
    assert.deepEqual([client.state, asked], [{ phase: "ended", code, message: "ended" }, renewals]);
    assert.equal(socket.tokens.length, 1);
  }
});

test("a session that ends for its token's age comes back by itself", async () => {
  const { client, socket } = await connected();
  socket.deliver("session_ended", { code: "token_expired", message: "expired", retry: "refresh" });
  socket.drop();
  assert.equal(client.state.phase, "reconnecting");
  socket.open();
  await settled();
  socket.accept();
  assert.deepEqual([client.state.phase, socket.active], ["connected", true]);
});

test("a question waits for the connection, and fails when it is lost", async () => {
  const { client, socket } = await started();
  const early = client.call("history", { room_id: "a" });
  assert.equal(socket.asked.length, 0);
  socket.accept();
  socket.take("history").answer({ messages: [] });
  assert.deepEqual(await early, { messages: [] });
  const late = client.call("history", { room_id: "a" });
  socket.drop();
  await assert.rejects(late, /lost/);
});

test("a question without an answer fails after a while, and a late answer is not taken", async () => {
  const { client, socket } = await connected();
  const question = client.call("history", {});
  const failed = assert.rejects(question, /no answer/);
  mock.timers.tick(20_000);
  await failed;
  socket.take("history").answer({});
  const strange = assert.rejects(client.call("history", {}), AnswerError);
  socket.take("history").reply(undefined);
  await strange;
});

test("nothing is left after the end: no listener, no wait, no question", async () => {
  const { client, socket } = await connected();
  const question = assert.rejects(client.call("history", {}), /stopped/);
  const opened = assert.rejects(client.open("a"), /stopped/);
  client.stop();
  await Promise.all([question, opened]);
  assert.deepEqual([socket.eventNames(), socket.io.eventNames(), socket.active], [[], [], false]);
  await assert.rejects(client.call("history", {}));
  const sent = socket.sent.length;
  await pass(120_000);
  assert.equal(socket.sent.length, sent);
});
