/**
 * The login of this browser: its tokens are kept in storage and renewed once for all tabs.
 * Events: `change` (signed in, signed out or another profile, in this tab or another one).
 */

import { SafeStorage, browserStorage } from "./storage.js";

const STORED_AS = "tertulia.session";
const RENEWAL_LOCK = "tertulia.renewal";
const RENEW_BEFORE_S = 30;
// The server waits ten seconds for the token of a new connection.
const RENEWAL_WITHIN_MS = 8_000;
const ANSWER_WITHIN_MS = 20_000;
const SEEN_BY_ALL_TABS_MS = 100;
const MAY_RETRY = new Set(["rate_limited", "unavailable", "draining"]);
const LOGIN_IS_OVER = new Set(["unauthenticated", "token_invalid", "token_expired", "token_revoked"]);

/** What the server answered instead of doing it; `code` is one of the contract's. */
export class AnswerError extends Error {
  constructor({ code, message, field, retry_after_ms: retryAfterMs, error_id: errorId }) {
    super(message);
    this.name = "AnswerError";
    Object.assign(this, { code, field, retryAfterMs, errorId });
  }
}

/** Whether the same call may succeed later; anything that is no answer is trouble on the way. */
export function mayRetry(error) {
  return !(error instanceof AnswerError) || MAY_RETRY.has(error.code);
}

export class Session extends EventTarget {
  #base;
  #storage;
  #locks;
  #onStorage = ({ key }) => (key === STORED_AS || key === null) && this.#changed();

  /** `base` is the server's address without a trailing slash; "" is the page's own. */
  constructor({ base = "", storage = browserStorage(), locks = globalThis.navigator?.locks } = {}) {
    super();
    this.#base = base;
    this.#storage = new SafeStorage(storage);
    this.#locks = locks;
    globalThis.addEventListener?.("storage", this.#onStorage);
  }

  /** The signed-in user, or null. */
  get user() {
    return this.#read()?.user ?? null;
  }

  async register(fields) {
    this.#keep(await this.#signIn("/api/auth/register", fields));
  }

  async login(fields) {
    this.#keep(await this.#signIn("/api/auth/login", fields));
  }

  /** End this login, or all of the user's. This browser forgets it even when the server cannot be reached. */
  async logout({ everywhere = false } = {}) {
    try {
      await this.request("POST", "/api/auth/logout", { everywhere });
    } finally {
      this.forget();
    }
  }

  forget() {
    this.#storage.remove(STORED_AS);
    this.#changed();
  }

  /** No longer look at what other tabs do. */
  close() {
    globalThis.removeEventListener?.("storage", this.#onStorage);
  }

  /**
   * An access token that holds for a while, and is another one than `instead`, which does no longer. Rejects with
   * AnswerError when signed out, and with an error that `mayRetry` when a new one cannot be had now.
   */
  async token({ instead } = {}) {
    const seen = this.#signedIn();
    if (seen.access_token !== instead && seen.renew_at > Date.now()) return seen.access_token;
    return this.#alone(() => this.#renew(seen));
  }

  /** Call the HTTP API with the login's token; the body of the answer. Rejects with AnswerError. */
  async request(method, path, body) {
    const token = await this.token();
    try {
      return await this.#send(method, path, body, { token });
    } catch (error) {
      if (error.code !== "token_expired") throw error;
      return this.#send(method, path, body, { token: await this.token({ instead: token }) });
    }
  }

  /** Show the new profile everywhere. */
  keepUser(user) {
    const stored = this.#read();
    if (stored?.user.id !== user.id) return;
    this.#storage.set(STORED_AS, JSON.stringify({ ...stored, user }));
    this.#changed();
  }

  async #renew(seen) {
    const now = this.#signedIn();
    if (now.user.id !== seen.user.id) throw signedOut();
    // Another tab was first.
    if (now.refresh_token !== seen.refresh_token) return now.access_token;
    const body = { refresh_token: now.refresh_token };
    let renewed;
    try {
      renewed = await this.#signIn("/api/auth/refresh", body, { withinMs: RENEWAL_WITHIN_MS });
    } catch (error) {
      if (LOGIN_IS_OVER.has(error.code) && this.#read()?.refresh_token === now.refresh_token) this.forget();
      throw error;
    }
    // Meanwhile one may have signed out or in; without locks another tab may have got this very answer.
    const held = this.#signedIn();
    if (held.user.id !== seen.user.id) throw signedOut();
    const isSameLogin = [now.refresh_token, renewed.refresh_token].includes(held.refresh_token);
    return isSameLogin ? this.#keep(renewed) : held.access_token;
  }

  /** Do it in one tab at a time, where the browser can tell (not on pages without https). */
  async #alone(work) {
    if (!this.#locks) return work();
    return new Promise((resolve) => {
      const held = this.#locks.request(RENEWAL_LOCK, async () => {
        const result = work();
        resolve(result);
        await result.catch(() => {});
        // Another tab may be another process, and what that reads of the storage lags: meanwhile it waits for the lock.
        await new Promise((seen) => setTimeout(seen, SEEN_BY_ALL_TABS_MS));
      });
      // Where the page may not have the lock, it does without.
      held.catch(() => resolve(work()));
    });
  }

  async #signIn(path, body, options) {
    const signed = await this.#send("POST", path, body, options);
    if (typeof signed.access_token !== "string") throw unreachable("another answer");
    return signed;
  }

  async #send(method, path, body, { token, withinMs = ANSWER_WITHIN_MS } = {}) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (token !== undefined) headers.Authorization = `Bearer ${token}`;
    let response;
    let text;
    try {
      response = await fetch(this.#base + path, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: AbortSignal.timeout(withinMs),
      });
      text = await response.text();
    } catch (error) {
      // What the browser throws has a number for its code.
      throw new Error(`no answer: ${error.message}`, { cause: error });
    }
    const answer = parsed(text);
    if (response.ok && answer !== null) return answer;
    throw answer?.error?.code ? new AnswerError(answer.error) : unreachable(`HTTP ${response.status}`);
  }

  #keep({ user, access_token, refresh_token, expires_in }) {
    const lasts_s = Math.max(expires_in - RENEW_BEFORE_S, expires_in / 2);
    const renew_at = Date.now() + lasts_s * 1000;
    this.#storage.set(STORED_AS, JSON.stringify({ user, access_token, refresh_token, renew_at }));
    this.#changed();
    return access_token;
  }

  #signedIn() {
    const stored = this.#read();
    if (stored === null) throw signedOut();
    return stored;
  }

  #read() {
    const stored = parsed(this.#storage.get(STORED_AS));
    return stored?.user?.id && stored.refresh_token ? stored : null;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

function signedOut() {
  return new AnswerError({ code: "unauthenticated", message: "signed out" });
}

/** Something on the way to the server has answered in its place. */
function unreachable(what) {
  return new AnswerError({ code: "unavailable", message: `the server cannot be reached: ${what}` });
}

/** The object that is written as JSON, or null. */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}
