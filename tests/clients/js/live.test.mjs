// The client against a real server, whose addresses are in the environment; tests/integration/test_web_client.py starts it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";
import { Client, Session } from "../../../static/client.js";
import { memoryStorage, webLocks } from "./fakes.mjs";
import { startProxy } from "./proxy.mjs";

const { TERTULIA_TEST_URL: URL_OF_SERVER, TERTULIA_TEST_SHORT_LIVED_URL: URL_OF_SHORT_LIVED } = process.env;
const OPTIONS = { reconnectionDelay: 20, reconnectionDelayMax: 100 };
const HERE = fileURLToPath(new URL(".", import.meta.url));

const running = [];
let people = 0;

before(() => assert.ok(URL_OF_SERVER && URL_OF_SHORT_LIVED, "TERTULIA_TEST_URL and TERTULIA_TEST_SHORT_LIVED_URL name the servers"));
after(() => {
  for (const each of running) (each.stop ?? each.close).call(each);
});

/** A session of somebody new. */
async function signUp(base = URL_OF_SERVER, options = {}) {
  const username = `u${process.pid}-${(people += 1)}`;
  const session = new Session({ base, storage: memoryStorage(), locks: null, ...options });
  await session.register({ username, password: "a password", display_name: username.toUpperCase() });
  return session;
}

/** A client that is connected; `calls` are the events that it sends, `refusals` what CONNECT was refused for. */
async function open(session, { base = URL_OF_SERVER, storage = memoryStorage(), recovery = true } = {}) {
  const calls = [];
  const refusals = [];
  const watched = (url, { auth, ...options }) => {
    const socket = io(url, { ...options, auth: (answer) => auth((fields) => answer({ ...fields, recovery })) });
    socket.onAnyOutgoing((event) => calls.push(event));
    socket.on("connect_error", ({ data }) => refusals.push(data?.code));
    return socket;
  };
  const client = new Client({ io: watched, session, base, storage, options: OPTIONS });
  Object.assign(client, { calls, refusals });
  running.push(client);
  client.start();
  await phase(client, "connected");
  return client;
}

async function person(options) {
  return open(await signUp(options?.base), options);
}

async function proxied() {
  const proxy = await startProxy(URL_OF_SERVER);
  running.push(proxy);
  return proxy;
}

/** Wait until it holds; looked at whenever the client tells of something. */
function until(client, holds) {
  const types = ["state", "rooms", "messages", "typing", "left", "profile"];
  return new Promise((resolve) => {
    const look = () => {
      if (!holds()) return;
      for (const type of types) client.removeEventListener(type, look);
      resolve();
    };
    for (const type of types) client.addEventListener(type, look);
    look();
  });
}

const phase = (client, wanted) => until(client, () => client.state.phase === wanted);
const list = (client, room) => client.book.timeline(room.id).list();
const contents = (client, room) => list(client, room).map(({ content }) => content);
const last = (client, room) => list(client, room).at(-1);

/** A room of these people, open on each of their clients. */
async function roomOf(owner, ...others) {
  const room = await owner.createRoom("group", "Tapas", others.map(({ me }) => me.id));
  for (const client of [owner, ...others]) {
    await until(client, () => client.book.room(room.id));
    await client.open(room.id);
  }
  return room;
}

test("two people talk, and each sees what the other does", async () => {
  const [ana, juan] = [await person(), await person()];
  const room = await roomOf(ana, juan);
  ana.send(room.id, "hello");
  await until(juan, () => last(juan, room)?.content === "hello");
  juan.type(room.id, true);
  await until(ana, () => ana.book.typing(room.id).length === 1);
  juan.send(room.id, "hi", { replyTo: last(juan, room) });
  await until(ana, () => last(ana, room)?.content === "hi");
  assert.equal(last(ana, room).reply_to.content, "hello");
  assert.deepEqual(ana.book.typing(room.id), []);
  await ana.edit(list(ana, room)[0], "hello there");
  await until(juan, () => list(juan, room)[0].content === "hello there");
  assert.equal(last(juan, room).reply_to.content, "hello there");
  await juan.react(list(juan, room)[0], "like");
  await until(ana, () => list(ana, room)[0].reaction_counts.like === 1);
  assert.deepEqual([list(juan, room)[0].my_reaction, list(ana, room)[0].my_reaction], ["like", null]);
  await juan.react(list(juan, room)[0], "like");
  await until(ana, () => !list(ana, room)[0].reaction_counts.like);
  assert.equal(ana.book.room(room.id).unread, 1);
  await ana.read(room.id);
  assert.equal(ana.book.room(room.id).unread, 0);
  await until(juan, () => juan.book.readByOthers(room.id) === 2);
  await ana.remove(list(ana, room)[0]);
  await until(juan, () => last(juan, room).reply_to.content === "");
  assert.equal(ana.book.isOnline(juan.me.id), true);
  await ana.request("PATCH", "/api/me", { display_name: "Ana" });
  await until(juan, () => list(juan, room)[0].sender.display_name === "Ana");
  assert.equal(ana.me.display_name, "Ana");
  await ana.call("remove_member", { room_id: room.id, user_id: juan.me.id });
  await until(juan, () => !juan.book.room(room.id));
  const direct = await juan.openDirect(ana.me.id);
  await until(ana, () => ana.book.room(direct.id));
  assert.equal(ana.book.isOnline(ana.book.room(direct.id).peer.id), true);
});

test("after a long absence everything is there, page by page, without a hole", async () => {
  const ana = await person();
  const proxy = await proxied();
  const juan = await person({ base: proxy.url, recovery: false });
  const room = await roomOf(ana, juan);
  const write = (from, to, text) => {
    const numbers = Array.from({ length: to - from }, (_, index) => from + index);
    return Promise.all(numbers.map((number) => ana.call("chat_message", { room_id: room.id, content: text(number) })));
  };
  const away = async (work) => {
    proxy.shut();
    await phase(juan, "reconnecting");
    await work();
    proxy.open();
    const { last_seq: seq } = ana.book.room(room.id);
    await until(juan, () => last(juan, room)?.seq === seq && !juan.book.timeline(room.id).isBehind);
  };
  // More than an answer holds: 80 messages of 4 kB.
  await away(() => write(0, 80, (number) => `${number} ${"x".repeat(3_900)}`));
  assert.deepEqual(contents(juan, room).map(parseFloat), [...Array(80).keys()]);
  // More changes than are told singly.
  await away(async () => {
    for (let from = 80; from < 1_130; from += 150) await write(from, from + 150, String);
  });
  const total = juan.book.room(room.id).last_seq;
  assert.ok(list(juan, room).length <= 50 && juan.book.timeline(room.id).hasOlder);
  while (await juan.loadOlder(room.id));
  assert.deepEqual(list(juan, room).map(({ seq }) => seq), Array.from({ length: total }, (_, index) => index + 1));
});

test("whatever is cut, each message arrives once, and in the order in which it was written", async () => {
  const proxy = await proxied();
  const ana = await person({ base: proxy.url });
  const juan = await person({ base: proxy.url });
  const room = await roomOf(ana, juan);
  const written = Array.from({ length: 60 }, (_, number) => `${number}`);
  for (const text of written) ana.send(room.id, text);
  for (const heard of [5, 15, 16, 30, 45]) {
    await until(juan, () => list(juan, room).length >= heard);
    proxy.cut();
  }
  await until(juan, () => list(juan, room).length >= 60);
  await until(ana, () => ana.pending(room.id).length === 0 && list(ana, room).length >= 60);
  for (const client of [ana, juan]) assert.deepEqual(contents(client, room), written);
});

test("a short interruption is recovered without a sync", async () => {
  const proxy = await proxied();
  const ana = await person();
  const juan = await person({ base: proxy.url });
  const room = await roomOf(ana, juan);
  // Only an event tells the client from where to go on.
  ana.send(room.id, "before");
  await until(juan, () => contents(juan, room).length === 1);
  const syncs = juan.calls.filter((event) => event === "sync").length;
  proxy.shut();
  await phase(juan, "reconnecting");
  for (const text of ["one", "two"]) ana.send(room.id, text);
  await until(ana, () => contents(ana, room).length === 3);
  juan.send(room.id, "written meanwhile");
  proxy.open();
  await until(juan, () => contents(juan, room).length === 4 && juan.pending(room.id).length === 0);
  assert.equal(juan.state.recovered, true);
  assert.equal(juan.calls.filter((event) => event === "sync").length, syncs);
  assert.deepEqual(contents(juan, room), ["before", "one", "two", "written meanwhile"]);
});

test("tokens are renewed in place and after the end of a session, once for two tabs", async () => {
  const base = URL_OF_SHORT_LIVED;
  const [storage, locks] = [memoryStorage(), webLocks()];
  const refreshed = [];
  const { fetch } = globalThis;
  globalThis.fetch = (url, options) => {
    if (url.endsWith("/refresh")) refreshed.push(JSON.parse(options.body).refresh_token);
    return fetch(url, options);
  };
  try {
    const tabs = [await signUp(base, { storage, locks }), new Session({ base, storage, locks })];
    const { access_token: firstToken } = JSON.parse(storage.getItem("tertulia.session"));
    const clients = await Promise.all(tabs.map((session) => open(session, { base })));
    for (const client of clients) {
      client.ends = 0;
      client.addEventListener("state", ({ detail }) => (client.ends += detail.phase === "reconnecting" ? 1 : 0));
    }
    await Promise.all(clients.map((client) => until(client, () => client.ends > 0)));
    for (const client of clients) assert.ok(client.calls.includes("auth_refresh"), "renewed in place before that");
    await Promise.all(clients.map((client) => phase(client, "connected")));
    // The clock of this device is behind: it takes an old token for a good one.
    const stored = JSON.parse(storage.getItem("tertulia.session"));
    storage.setItem("tertulia.session", JSON.stringify({ ...stored, access_token: firstToken, renew_at: Date.now() + 1e9 }));
    for (const client of clients) client.reconnect();
    await Promise.all(clients.map((client) => phase(client, "connected")));
    for (const client of clients) assert.ok(client.refusals.includes("token_expired"));
    assert.equal(new Set(refreshed).size, refreshed.length, "no token was used twice");
    for (const client of clients) client.stop();
  } finally {
    globalThis.fetch = fetch;
  }
});

test("websocket is taken at once, and polling where it does not get through", async () => {
  const transport = ({ engine }) => engine.transport.name;
  const requests = [];
  const engines = (url, options) => {
    const socket = io(url, options);
    socket.io.on("open", () => requests.push(transport(socket.io)));
    return socket;
  };
  const session = await signUp();
  for (const breaksWebSockets of [false, true]) {
    const proxy = await startProxy(URL_OF_SERVER, { breaksWebSockets });
    const client = new Client({ io: engines, session, base: proxy.url, storage: memoryStorage() });
    running.push(proxy, client);
    client.start();
    await phase(client, "connected");
  }
  assert.deepEqual(requests, ["websocket", "polling"]);
});

test("a login that is ended elsewhere ends here and is forgotten", async () => {
  const session = await signUp();
  const client = await open(session);
  const elsewhere = new Session({ base: URL_OF_SERVER, storage: memoryStorage(), locks: null });
  await elsewhere.login({ username: session.user.username, password: "a password" });
  const forgotten = once(session, "change");
  await elsewhere.logout({ everywhere: true });
  await phase(client, "ended");
  assert.equal(client.state.code, "token_revoked");
  await forgotten;
  assert.equal(session.user, null);
});

test("a page that is opened with a login that was ended says so", async () => {
  const session = await signUp();
  const stored = { ...session.user };
  const elsewhere = new Session({ base: URL_OF_SERVER, storage: memoryStorage(), locks: null });
  await elsewhere.login({ username: stored.username, password: "a password" });
  await elsewhere.logout({ everywhere: true });
  const client = new Client({ io, session, base: URL_OF_SERVER, storage: memoryStorage(), options: OPTIONS });
  running.push(client);
  client.start();
  await phase(client, "refused");
  assert.equal(client.state.code, "token_revoked");
});

test("while the server is away it is tried again, and what was written then is sent", async () => {
  const proxy = await proxied();
  const ana = await person({ base: proxy.url });
  const room = await roomOf(ana);
  proxy.shut();
  await until(ana, () => ana.state.phase === "reconnecting" && ana.state.attempt >= 3);
  for (const text of ["one", "two"]) ana.send(room.id, text);
  await assert.rejects(ana.request("GET", "/api/me"));
  proxy.open();
  await until(ana, () => ana.pending(room.id).length === 0);
  await until(ana, () => contents(ana, room).length === 2);
  assert.deepEqual(contents(ana, room), ["one", "two"]);
});

test("after stop() nothing keeps a process alive", async () => {
  const script = `
    import { io } from "socket.io-client";
    import { Client, Session } from "../../../static/client.js";
    import { memoryStorage } from "./fakes.mjs";
    const base = "${URL_OF_SERVER}";
    for (const isConnected of [true, false]) {
      const session = new Session({ base, storage: memoryStorage(), locks: null });
      await session.register({ username: "s${process.pid}" + isConnected, password: "a password" });
      const at = isConnected ? base : "http://127.0.0.1:1";
      const client = new Client({ io, session, base: at, storage: memoryStorage() });
      client.start();
      const phase = isConnected ? "connected" : "reconnecting";
      await new Promise((resolve) => client.addEventListener("state", ({ detail }) => detail.phase === phase && resolve()));
      client.open("nowhere").catch(() => {});
      client.call("history", { room_id: "nowhere" }).catch(() => {});
      client.send("nowhere", "hello");
      client.stop();
    }
    console.log("stopped");`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], { cwd: HERE, stdio: ["ignore", "pipe", "inherit"] });
  let stoppedAt = null;
  child.stdout.on("data", () => (stoppedAt = performance.now()));
  const [code] = await once(child, "close");
  assert.equal(code, 0);
  assert.ok(performance.now() - stoppedAt < 2_000, "it ended by itself, not by a timer");
});
