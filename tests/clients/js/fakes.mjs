// What the client is given in tests in place of a browser and a network.

import { EventEmitter } from "node:events";

/** As localStorage; `limit` is how many keys it takes. */
export function memoryStorage({ limit = Infinity } = {}) {
  const kept = new Map();
  return {
    get length() {
      return kept.size;
    },
    key: (index) => [...kept.keys()][index] ?? null,
    getItem: (key) => kept.get(key) ?? null,
    setItem(key, value) {
      if (!kept.has(key) && kept.size >= limit) throw new Error("QuotaExceededError");
      kept.set(key, value);
    },
    removeItem: (key) => void kept.delete(key),
  };
}

/** As navigator.locks, of all tabs of a browser. */
export function webLocks() {
  const lasts = new Map();
  return {
    request(name, work) {
      const result = (lasts.get(name) ?? Promise.resolve()).then(work);
      lasts.set(name, result.catch(() => {}));
      return result;
    },
  };
}

/** Let everything happen that waits for nothing but its turn: promises alone. */
export async function settled() {
  for (let turn = 0; turn < 25; turn += 1) await null;
}

/** As a socket of socket.io-client; the test is the server. `asked` holds what was sent and is not answered. */
export class FakeSocket extends EventEmitter {
  connected = false;
  active = false;
  recovered = false;
  asked = [];
  sent = [];
  tokens = [];
  io = Object.assign(new EventEmitter(), { engine: {} });

  constructor(options) {
    super();
    this.auth = options.auth;
  }

  connect() {
    this.active = true;
    this.open();
    return this;
  }

  /** The transport stands, and the client sends CONNECT. */
  open() {
    this.io.engine = {};
    this.auth(({ token }) => this.tokens.push(token));
  }

  /** The answer to CONNECT. */
  accept({ recovered = false } = {}) {
    this.connected = true;
    this.recovered = recovered;
    super.emit("connect");
  }

  refuse(code, retry) {
    this.active = false;
    super.emit("connect_error", Object.assign(new Error(`refused: ${code}`), { data: { code, retry } }));
  }

  /** The handshake was answered 503, or not at all. */
  fail() {
    super.emit("connect_error", new Error("xhr poll error"));
  }

  drop(reason = "transport close") {
    this.connected = false;
    if (reason.startsWith("io ")) this.active = false;
    this.asked = [];
    super.emit("disconnect", reason);
  }

  disconnect() {
    const wasConnected = this.connected;
    this.active = false;
    if (wasConnected) this.drop("io client disconnect");
    return this;
  }

  emit(event, payload, ack) {
    this.sent.push({ event, payload });
    if (ack) {
      this.asked.push({
        event,
        payload,
        reply: ack,
        answer: (data) => ack({ ok: true, data }),
        refuse: (code, more) => ack({ ok: false, error: { code, message: code, ...more } }),
      });
    }
    return this;
  }

  /** An event of the server. */
  deliver(event, payload) {
    super.emit(event, payload);
  }

  /** Take the oldest question, which must be of this event. */
  take(event) {
    const index = this.asked.findIndex((each) => each.event === event);
    if (index < 0) throw new Error(`${event} was not asked, but ${this.asked.map((each) => each.event)}`);
    return this.asked.splice(index, 1)[0];
  }
}

/** A signed-in session without a server; `renew` is called for a new token. */
export function fakeSession(user, renew = async () => "renewed") {
  const session = Object.assign(new EventTarget(), {
    user,
    current: "first",
    async token({ instead } = {}) {
      if (session.current === instead) session.current = await renew();
      return session.current;
    },
    keepUser: (changed) => (session.user = changed),
    forget: () => (session.user = null),
  });
  return session;
}
