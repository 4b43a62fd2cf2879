// The login of a browser, against an HTTP server that counts and misbehaves.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, beforeEach, test } from "node:test";
import { AnswerError, Session, mayRetry } from "../../../static/client/session.js";
import { memoryStorage, settled, webLocks } from "./fakes.mjs";

const USER = { id: "~u1", username: "ana", display_name: "Ana", avatar_url: null };
let server;
let base;
let asked;
let answers;

before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    asked.push({ path: request.url, token: request.headers.authorization, body: body && JSON.parse(body) });
    const { status = 200, text, json } = await (answers[request.url] ?? (() => ({ json: {} })))(asked.at(-1));
    // Connections that are kept would be closed by the server just when a busy machine uses one.
    response.writeHead(status, { Connection: "close" }).end(text ?? JSON.stringify(json));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${server.address().port}`;
});

beforeEach(() => {
  asked = [];
  let count = 0;
  answers = {
    "/api/auth/login": () => ({ json: signed(0) }),
    "/api/auth/refresh": () => ({ json: signed((count += 1)) }),
  };
});

after(() => server.close());

function signed(number, more = {}) {
  return { user: USER, access_token: `access ${number}`, refresh_token: `refresh ${number}`, expires_in: 900, ...more };
}

const renewals = () => asked.filter(({ path }) => path === "/api/auth/refresh");
const refusal = (status, code) => () => ({ status, json: { error: { code, message: code } } });

async function signedIn({ storage = memoryStorage(), locks = null } = {}) {
  const session = new Session({ base, storage, locks });
  await session.login({ username: "ana", password: "secret" });
  return session;
}

function changes(session) {
  const seen = [];
  session.addEventListener("change", () => seen.push(session.user?.id ?? null));
  return seen;
}

test("two tabs that renew at the same moment ask once and have the same token", async () => {
  const [storage, locks] = [memoryStorage(), webLocks()];
  const one = await signedIn({ storage, locks });
  const other = new Session({ base, storage, locks });
  const tokens = await Promise.all([one, other, one].map((tab) => tab.token({ instead: "access 0" })));
  assert.deepEqual(tokens, ["access 1", "access 1", "access 1"]);
  assert.equal(renewals().length, 1);
});

test("a tab is let on only when it can see what another one has stored, which does not wait for it", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const [storage, locks] = [memoryStorage(), webLocks()];
  const one = await signedIn({ storage, locks });
  const other = new Session({ base, storage, locks });
  const [first, second] = [one, other].map((tab) => tab.token({ instead: "access 0" }));
  let hasSecond = false;
  second.then(() => (hasSecond = true));
  assert.equal(await first, "access 1");
  await settled();
  assert.equal(hasSecond, false);
  context.mock.timers.tick(100);
  assert.equal(await second, "access 1");
});

test("a tab that is told later takes the token that another one has got", async () => {
  const [storage, locks] = [memoryStorage(), webLocks()];
  const one = await signedIn({ storage, locks });
  const other = new Session({ base, storage, locks });
  await one.token({ instead: "access 0" });
  assert.equal(await other.token({ instead: "access 0" }), "access 1");
  assert.equal(renewals().length, 1);
  assert.equal(await other.token({ instead: "access 1" }), "access 2");
});

test("without locks both tabs get the same successor, and both keep it", async () => {
  answers["/api/auth/refresh"] = () => ({ json: signed(1) });
  for (const locks of [null, { request: () => Promise.reject(new Error("SecurityError")) }]) {
    const storage = memoryStorage();
    const tabs = [await signedIn({ storage, locks }), new Session({ base, storage, locks })];
    assert.deepEqual(await Promise.all(tabs.map((tab) => tab.token({ instead: "access 0" }))), ["access 1", "access 1"]);
    assert.equal(tabs[0].user.id, USER.id);
  }
});

test("a token is renewed some time before it ends, also a short-lived one", async (context) => {
  context.mock.timers.enable({ apis: ["Date"], now: 1_000_000 });
  for (const [lasts_s, renewed_s] of [[900, 870], [10, 5]]) {
    answers["/api/auth/login"] = () => ({ json: signed(0, { expires_in: lasts_s }) });
    const session = await signedIn();
    const before = renewals().length;
    context.mock.timers.tick((renewed_s - 1) * 1000);
    assert.equal(await session.token(), "access 0");
    context.mock.timers.tick(2000);
    assert.notEqual(await session.token(), "access 0");
    assert.equal(renewals().length, before + 1);
  }
});

test("a refused renewal signs out, once and for all", async () => {
  for (const code of ["token_revoked", "token_expired", "token_invalid", "unauthenticated"]) {
    const session = await signedIn({ locks: webLocks() });
    const seen = changes(session);
    answers["/api/auth/refresh"] = refusal(401, code);
    await assert.rejects(session.token({ instead: "access 0" }), { code });
    assert.deepEqual([session.user, seen], [null, [null]]);
    await assert.rejects(session.token(), { code: "unauthenticated" });
  }
  assert.equal(renewals().length, 4, "a login that is over is not asked about again");
});

test("a server in trouble does not sign out", async () => {
  const troubles = [
    refusal(503, "unavailable"), refusal(429, "rate_limited"), refusal(500, "internal"),
    () => ({ status: 502, text: "<html>Bad Gateway</html>" }),
    () => ({ status: 200, text: "<html>Please accept the terms of this hotel</html>" }),
    () => ({ status: 200, json: { hello: "world" } }),
    () => ({ status: 500, json: null }),
    () => ({ status: 404, json: { message: "no Route matched" } }),
  ];
  for (const trouble of troubles) {
    const session = await signedIn();
    answers["/api/auth/refresh"] = trouble;
    await assert.rejects(session.token({ instead: "access 0" }), AnswerError);
    assert.equal(session.user.id, USER.id);
  }
});

test("what is not an answer of the server may be tried again, and is no SyntaxError", async () => {
  const session = await signedIn();
  for (const [status, text] of [[502, "<html></html>"], [413, "too large"], [200, ""], [200, "null"], [504, ""], [200, '"text"']]) {
    answers["/api/me"] = () => ({ status, text });
    const error = await session.request("GET", "/api/me").catch((reason) => reason);
    assert.ok(error instanceof AnswerError && mayRetry(error), `${status} ${text}: ${error}`);
    assert.equal(error.code, "unavailable");
  }
  const unreachable = new Session({ base: "http://127.0.0.1:1", storage: memoryStorage() });
  assert.ok(mayRetry(await unreachable.login({}).catch((reason) => reason)));
});

test("the server's own errors come with all they say", async () => {
  const session = await signedIn();
  const error = { code: "rate_limited", message: "slowly", field: "name", retry_after_ms: 7, error_id: "e1" };
  answers["/api/me"] = () => ({ status: 429, json: { error } });
  await assert.rejects(session.request("PATCH", "/api/me", {}), { code: "rate_limited", message: "slowly", field: "name", retryAfterMs: 7, errorId: "e1" });
});

test("a call whose token has expired is made once more with a new one", async () => {
  const session = await signedIn();
  answers["/api/me"] = ({ token }) => (token === "Bearer access 1" ? { json: { user: USER } } : refusal(401, "token_expired")());
  assert.deepEqual(await session.request("GET", "/api/me"), { user: USER });
  answers["/api/me"] = refusal(401, "token_expired");
  await assert.rejects(session.request("GET", "/api/me"), { code: "token_expired" });
  assert.equal(asked.filter(({ path }) => path === "/api/me").length, 4);
});

test("who signed out in another tab is not signed in again by a renewal under way", async () => {
  const storage = memoryStorage();
  const session = await signedIn({ storage });
  const other = new Session({ base, storage });
  answers["/api/auth/refresh"] = () => {
    other.forget();
    return { json: signed(1) };
  };
  await assert.rejects(session.token({ instead: "access 0" }), { code: "unauthenticated" });
  assert.equal(session.user, null);
});

test("a login that came meanwhile is not replaced by a renewal of the old one", async () => {
  const storage = memoryStorage();
  const session = await signedIn({ storage });
  const logIn = (user) => storage.setItem("tertulia.session", JSON.stringify({ ...signed(9), user, renew_at: Date.now() + 1e6 }));
  for (const user of [USER, { ...USER, id: "somebody else" }]) {
    await session.login({});
    answers["/api/auth/refresh"] = () => {
      logIn(user);
      return { json: signed(1) };
    };
    const renewal = session.token({ instead: "access 0" });
    if (user === USER) assert.equal(await renewal, "access 9");
    else await assert.rejects(renewal, { code: "unauthenticated" });
    assert.deepEqual([session.user.id, await session.token()], [user.id, "access 9"]);
  }
});

test("a tab that waited while somebody else signed in does not take their token", async () => {
  const storage = memoryStorage();
  const locks = {
    async request(_, work) {
      const user = { ...USER, id: "somebody else" };
      storage.setItem("tertulia.session", JSON.stringify({ ...signed(9), user, renew_at: Date.now() + 1e6 }));
      return work();
    },
  };
  const session = await signedIn({ storage, locks });
  await assert.rejects(session.token({ instead: "access 0" }), { code: "unauthenticated" });
});

test("a renewal that is refused does not end a login that came meanwhile", async () => {
  const storage = memoryStorage();
  const session = await signedIn({ storage });
  answers["/api/auth/refresh"] = () => {
    storage.setItem("tertulia.session", JSON.stringify({ ...signed(9), renew_at: Date.now() + 1e6 }));
    return refusal(401, "token_revoked")();
  };
  await assert.rejects(session.token({ instead: "access 0" }), { code: "token_revoked" });
  assert.equal(await session.token(), "access 9");
});

test("logging out forgets the login also when the server cannot be reached", async () => {
  const session = await signedIn();
  answers["/api/auth/logout"] = () => ({ status: 502, text: "Bad Gateway" });
  await assert.rejects(session.logout({ everywhere: true }), { code: "unavailable" });
  assert.equal(session.user, null);
  assert.deepEqual(asked.at(-1).body, { everywhere: true });
});

test("where nothing can be stored the login lasts as long as the page", async () => {
  const full = memoryStorage({ limit: 0 });
  const blocked = { getItem: fail, setItem: fail, removeItem: fail };
  for (const storage of [full, blocked, undefined]) {
    const session = await signedIn({ storage });
    assert.equal(await session.token({ instead: "access 0" }), (await session.token()));
    session.forget();
    assert.equal(session.user, null);
  }
});

test("a new profile is kept for its own user alone", async () => {
  const session = await signedIn();
  session.keepUser({ ...USER, display_name: "Ana María" });
  session.keepUser({ ...USER, id: "somebody else", display_name: "Eva" });
  assert.equal(session.user.display_name, "Ana María");
});

test("what another tab does to the login is told, until the session is closed", async () => {
  const listeners = new Set();
  globalThis.addEventListener = (_, listener) => listeners.add(listener);
  globalThis.removeEventListener = (_, listener) => listeners.delete(listener);
  try {
    const session = await signedIn();
    const seen = changes(session);
    for (const key of ["tertulia.session", "something else", null]) for (const listener of listeners) listener({ key });
    assert.equal(seen.length, 2);
    session.close();
    assert.equal(listeners.size, 0);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});

function fail() {
  throw new Error("SecurityError");
}

test("what the browser throws for want of an answer is no answer of the server", async (context) => {
  const session = await signedIn();
  const thrown = new DOMException("The operation timed out.", "TimeoutError");
  context.mock.method(globalThis, "fetch", () => Promise.reject(thrown));
  const error = await session.request("GET", "/api/me").catch((reason) => reason);
  assert.equal(error.code, undefined);
  assert.equal(error.cause, thrown);
  assert.ok(mayRetry(error));
});
