/** Two people in one public room on one page, with a log of every event and ack. For development. */

import { io } from "/static/vendor/socket.io.esm.min.js";
import { Client, Session } from "./client.js";
import { h } from "./ui/dom.js";

const MOST_LINES = 500;
const PASSWORD_BYTES = 16;
const roomName = decodeURIComponent(location.pathname.split("/").pop());

/** Tokens of one pane, for as long as the page is open. */
function memoryStorage() {
  const kept = new Map();
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
}

function randomText() {
  const bytes = crypto.getRandomValues(new Uint8Array(PASSWORD_BYTES));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

class Pane {
  #log = h("ol", { tabindex: "0", "aria-label": "Events and acks" });
  #state = h("span", { class: "state", role: "status" }, "signing up");
  #text = h("input", { "aria-label": "Message", placeholder: "Message", required: true });
  #client = null;
  #roomId = null;

  constructor(name) {
    this.name = name;
    const again = h("button", { type: "button", onclick: () => this.#client?.reconnect() }, "Reconnect");
    const form = h("form", { onsubmit: (event) => this.#send(event) }, this.#text, h("button", {}, "Send"));
    const head = h("header", {}, h("h2", {}, name), this.#state, again);
    this.element = h("section", { "aria-label": name }, head, form, this.#log);
  }

  /** Sign up as somebody new and enter the room, which the first one makes. */
  async start() {
    const session = new Session({ storage: memoryStorage(), locks: null });
    const username = `${this.name}-${randomText().slice(0, 8)}`;
    await session.register({ username, password: randomText(), display_name: this.name });
    const watched = (url, options) => this.#watched(io(url, options));
    this.#client = new Client({ io: watched, session, storage: memoryStorage() });
    this.#client.addEventListener("state", ({ detail }) => this.#show(detail));
    this.#client.start();
    this.#roomId = (await this.#enter()).id;
    await this.#client.open(this.#roomId);
  }

  async #enter() {
    const query = encodeURIComponent(roomName);
    const { rooms } = await this.#client.request("GET", `/api/rooms?scope=public&limit=100&query=${query}`);
    const found = rooms.find(({ name }) => name === roomName);
    return found ? this.#client.join(found.id) : this.#client.createRoom("public", roomName, []);
  }

  async #send(event) {
    event.preventDefault();
    const payload = { room_id: this.#roomId, content: this.#text.value };
    this.#text.value = "";
    await this.#client.call("chat_message", payload).catch((error) => this.#write("error", error.message, error.code));
  }

  #watched(socket) {
    socket.onAny((event, ...args) => this.#write("event", event, args));
    const emit = socket.emit.bind(socket);
    socket.emit = (event, ...args) => {
      const ack = args.at(-1);
      this.#write("sent", `sent ${event}`, args[0]?.token ? "a token" : args[0]);
      if (typeof ack !== "function") return emit(event, ...args);
      return emit(event, ...args.slice(0, -1), (...answer) => {
        this.#write(answer.at(-1)?.ok ? "ack" : "error", `ack of ${event}`, answer.at(-1));
        ack(...answer);
      });
    };
    return socket;
  }

  #show({ phase, attempt, message }) {
    this.#state.className = `state ${phase}`;
    this.#state.textContent = [phase, attempt || "", message ?? ""].join(" ").trim();
    this.#write(phase === "connected" ? "ack" : "error", phase, message ?? "");
  }

  #write(kind, what, data) {
    const line = `${new Date().toISOString().slice(11, 23)} ${what} ${JSON.stringify(data)}`;
    this.#log.prepend(h("li", { class: kind }, line));
    while (this.#log.children.length > MOST_LINES) this.#log.lastElementChild.remove();
  }
}

const panes = [new Pane("ana"), new Pane("juan")];
document.title = `${roomName}: test chat`;
document.body.append(
  h("h1", {}, `Test chat: ${roomName}`),
  h("p", {}, "Two new people in a public room of this name. The newest event is at the top."),
  h("main", {}, panes.map(({ element }) => element)),
);
for (const pane of panes) {
  try {
    await pane.start();
  } catch (error) {
    pane.element.append(h("p", { class: "error", role: "alert" }, `${error.code ?? ""} ${error.message}`));
  }
}
