/**
 * A Tertulia client for browsers: connection, catching up, order, outbox. No page in here; take it with its folder.
 *
 *   const client = new Client({ io, session });    // io of socket.io-client, a signed-in Session
 *   client.addEventListener("messages", ({ detail }) => show(client.book.timeline(detail.roomId).list()));
 *   client.start();
 * Events, each with `detail`: `state` {phase, attempt, code, message, recovered}, `rooms`, `messages` {roomId},
 * `typing` {roomId}, `received` {message} (somebody else's, live), `left` {roomId, reason}, `profile` {user}.
 * A phase is connecting, connected, reconnecting, refused (`code` says why) or ended (on purpose, or signed out).
 */

import { Catchup } from "./client/catchup.js";
import { Link } from "./client/link.js";
import { Outbox } from "./client/outbox.js";
import { RoomBook } from "./client/roombook.js";
import { Sender } from "./client/sender.js";
import { AnswerError, Session, mayRetry } from "./client/session.js";
import { browserStorage } from "./client/storage.js";

export { AnswerError, Session, mayRetry };

const TYPING_REPEATED_MS = 3_000;

/** An event of a client, with its `detail`. */
class ClientEvent extends Event {
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

export class Client extends EventTarget {
  #session;
  #link;
  #catchup;
  #outbox;
  #sender;
  #typedAt = new Map();
  #readings = new Map();

  /** `storage` keeps the outbox; `options` go to socket.io-client. */
  constructor({ io, session, base = "", storage = browserStorage(), options = {} }) {
    super();
    this.#session = session;
    this.book = new RoomBook(session.user, (type, detail) => this.#changed(type, detail));
    this.#outbox = new Outbox(session.user.id, storage);
    this.#link = new Link({ io, url: `${base}/chat`, options, session }, (type, detail) => this.#linked(type, detail));
    this.#catchup = new Catchup(this.#link, this.book, (message) => this.#acknowledge(message));
    this.#sender = new Sender(this.#link, this.#outbox, {
      take: (message) => this.#take(message),
      refuse: (entry, error) => this.#refuse(entry, error),
    });
    this.#listen();
  }

  get me() {
    return this.book.me;
  }

  get state() {
    return this.#link.state;
  }

  start() {
    this.#link.start();
  }

  /** Leave for good: no connection, timer or listener is left. */
  stop() {
    this.#link.stop();
    this.book.close();
  }

  /** Connect now instead of at the next attempt. */
  reconnect() {
    this.#link.reconnect();
  }

  /**
   * Send an event, now or once connected, and resolve to its data. Rejects with AnswerError, or with another Error when
   * no answer came.
   */
  call(event, payload = {}) {
    return this.#link.ask(event, payload);
  }

  /** Call the HTTP API. Rejects with AnswerError. */
  request(method, path, body) {
    return this.#session.request(method, path, body);
  }

  /** What waits in the outbox for a room, oldest first; an entry with `error` was refused. */
  pending(roomId) {
    return this.#outbox.list(roomId);
  }

  /** Hold a room's messages from now on; resolves once its newest are held. Rejects when one is not in it. */
  open(roomId) {
    const { loaded } = this.book.open(roomId);
    this.#catchup.complete(roomId);
    return loaded;
  }

  /** Load a page of older messages; whether there was one. */
  loadOlder(roomId) {
    const ask = (seq) => this.call("history", { room_id: roomId, before_seq: seq });
    return this.book.timeline(roomId).loadOlder(ask).finally(() => this.#tell("messages", { roomId }));
  }

  /** Write a message: it is pending at once and sent when there is a connection. Its client_msg_id. */
  send(roomId, content, { replyTo = null } = {}) {
    if (this.#outbox.isFull) throw new AnswerError({ code: "rate_limited", message: "too much is waiting" });
    const quote = replyTo && { id: replyTo.id, sender: replyTo.sender, content: replyTo.content };
    return this.#write({ room_id: roomId, content, reply_to: replyTo?.id ?? null, quote });
  }

  /** Send a refused message again: with the same id, unless that one stands for something else. */
  retry(clientMsgId) {
    const entry = this.#outbox.find(clientMsgId);
    if (entry?.error?.code === "conflict") {
      const { room_id, content, reply_to, quote } = this.#outbox.remove(clientMsgId);
      this.#write({ room_id, content, reply_to, quote });
    } else {
      this.#outbox.mark(clientMsgId, null);
      if (entry) this.#tell("messages", { roomId: entry.room_id });
      this.#sender.flush();
    }
  }

  discard(clientMsgId) {
    const entry = this.#outbox.remove(clientMsgId);
    if (entry) this.#tell("messages", { roomId: entry.room_id });
  }

  async edit(message, content) {
    this.#take((await this.call("edit_message", { ...reference(message), content })).message);
  }

  async remove(message) {
    this.#take((await this.call("delete_message", reference(message))).message);
  }

  /** React, or take the same reaction back. */
  async react(message, reaction) {
    const action = message.my_reaction === reaction ? "remove" : "add";
    const asked = { ...reference(message), reaction_type: reaction, action };
    this.#take((await this.call("react_message", asked)).message);
  }

  /** Say that everything in a room has been read. */
  async read(roomId) {
    const { unread = 0, last_seq: seq } = this.book.room(roomId) ?? {};
    if (unread <= 0 || this.#readings.get(roomId) >= seq) return;
    this.#readings.set(roomId, seq);
    try {
      const { last_read_seq: read } = await this.call("read_message", { room_id: roomId, seq });
      this.book.noteRead(roomId, this.me.id, read);
    } finally {
      if (this.#readings.get(roomId) === seq) this.#readings.delete(roomId);
    }
  }

  /** Say that one is typing; repeated while it goes on, and ended by false. */
  type(roomId, isTyping) {
    const typedAt = this.#typedAt.get(roomId) ?? -Infinity;
    if (isTyping ? Date.now() - typedAt < TYPING_REPEATED_MS : !this.#typedAt.has(roomId)) return;
    if (isTyping) this.#typedAt.set(roomId, Date.now());
    else this.#typedAt.delete(roomId);
    this.#link.say("typing", { room_id: roomId, is_typing: isTyping });
  }

  createRoom(kind, name, memberIds) {
    return this.#enter("create_room", { kind, name, member_ids: memberIds, client_msg_id: newId() });
  }

  openDirect(userId) {
    return this.#enter("open_direct", { user_id: userId });
  }

  join(roomId) {
    return this.#enter("join_room", { room_id: roomId });
  }

  leave(roomId) {
    return this.call("leave_room", { room_id: roomId });
  }

  async #enter(event, payload) {
    const askedAt = this.book.now;
    return this.book.keepRoom((await this.call(event, payload)).room, askedAt);
  }

  #listen() {
    const link = this.#link;
    link.on("chat_message", ({ message }) => this.#hear(message, { isNew: true }));
    link.on("message_edited", ({ message }) => this.#hear(message));
    link.on("message_deleted", ({ message }) => this.#hear(message));
    link.on("message_reaction", (event) => {
      this.book.react(event);
      this.#catchup.complete(event.room_id);
    });
    link.on("room_joined", ({ room_id: roomId }) => this.#catchup.joined(roomId));
    link.on("room_left", ({ room_id: roomId, reason }) => this.book.dropRoom(roomId, reason));
    link.on("room_updated", ({ room_id: roomId, name, member_count: count }) =>
      this.book.changeRoom(roomId, { name, member_count: count }),
    );
    this.#listenToPeople();
  }

  #listenToPeople() {
    const { book } = this;
    const link = this.#link;
    link.on("message_read", (event) => book.noteRead(event.room_id, event.user_id, event.last_read_seq));
    link.on("typing_status", ({ room_id: roomId, user_id: userId, username, is_typing: isTyping }) =>
      isTyping ? book.startTyping(roomId, userId, username) : book.stopTyping(roomId, userId),
    );
    link.on("user_status", ({ user_id: userId, status, last_seen: lastSeen }) =>
      book.setOnline(userId, status === "online", lastSeen),
    );
    link.on("user_updated", ({ user }) => {
      book.changePerson(user);
      this.#changed("profile", { user });
    });
    link.on("member_joined", ({ room_id: roomId, user, member_count: count }) =>
      book.changeMember(roomId, user, count, { isIn: true }),
    );
    link.on("member_left", ({ room_id: roomId, user, member_count: count }) =>
      book.changeMember(roomId, user, count, { isIn: false }),
    );
  }

  #hear(message, { isNew = false } = {}) {
    this.#acknowledge(message);
    this.book.hearMessage(message, { isNew });
    if (isNew && message.sender.id !== this.me.id) this.#tell("received", { message });
    this.#catchup.complete(message.room_id);
  }

  #take(message) {
    this.#acknowledge(message);
    this.book.takeMessage(message);
  }

  /** One's own message has arrived, whichever way that becomes known. */
  #acknowledge(message) {
    if (message.client_msg_id && message.sender.id === this.me.id) this.#outbox.remove(message.client_msg_id);
  }

  #write(fields) {
    const id = newId();
    this.#outbox.add({ client_msg_id: id, ...fields, at: new Date().toISOString() });
    this.#typedAt.delete(fields.room_id);
    this.#tell("messages", { roomId: fields.room_id });
    this.#sender.flush();
    return id;
  }

  #refuse({ client_msg_id: id, room_id: roomId }, { code, message, field, errorId }) {
    this.#outbox.mark(id, { code, message, field, errorId });
    this.#discardUnseen();
    this.#tell("messages", { roomId });
  }

  /** What was refused is shown in its room: without that room nobody can do anything about it. */
  #discardUnseen() {
    if (!this.#catchup.isComplete) return;
    for (const { client_msg_id: id, room_id: roomId, error } of this.#outbox.list()) {
      if (error && !this.book.room(roomId)) this.#outbox.remove(id);
    }
  }

  #linked(type, detail) {
    if (type === "connected") {
      this.#outbox.adopt();
      this.#catchup.connected(detail.recovered).then(() => this.#discardUnseen());
      this.#sender.flush();
    } else {
      this.#tell(type, detail);
    }
  }

  #changed(type, detail) {
    if (type === "profile" && detail.user.id === this.me.id) this.#session.keepUser(detail.user);
    // Nobody sees any more what waited for that room.
    if (type === "left") for (const { client_msg_id: id } of this.pending(detail.roomId)) this.#outbox.remove(id);
    this.#tell(type, detail);
  }

  #tell(type, detail) {
    this.dispatchEvent(new ClientEvent(type, detail));
  }
}

function reference(message) {
  return { room_id: message.room_id, message_id: message.id };
}

/** A random id; `crypto.randomUUID` itself is missing on pages without https. */
function newId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
