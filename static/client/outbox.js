/**
 * What was written and is not acknowledged yet. It survives a reload; each entry keeps its `client_msg_id`, so that
 * sending it again never posts twice. Each has a key of its own in storage, so that no tab overwrites another's.
 */

import { SafeStorage } from "./storage.js";

const MOST_WAITING = 200;

export class Outbox {
  #storage;
  #prefix;
  #entries = new Map();
  #keptIds = new Set();
  #newest = 0;

  constructor(userId, storage) {
    this.#storage = new SafeStorage(storage);
    this.#prefix = `tertulia.outbox.${userId}.`;
    this.adopt();
  }

  /** Oldest first: {client_msg_id, room_id, content, reply_to, quote, at, order, error}; `error` once it was refused. */
  list(roomId) {
    return [...this.#entries.values()].filter((entry) => roomId === undefined || entry.room_id === roomId);
  }

  /** An entry as it is now: what another tab has sent, marked or thrown away since is so here, too. */
  find(clientMsgId) {
    if (!this.#keptIds.has(clientMsgId)) return this.#entries.get(clientMsgId);
    const kept = this.#read(clientMsgId);
    if (kept === null) this.#forget(clientMsgId);
    else this.#entries.set(clientMsgId, kept);
    return kept ?? undefined;
  }

  /** The oldest one that waits to be sent. */
  next() {
    for (const id of [...this.#entries.keys()]) {
      const entry = this.find(id);
      if (entry && !entry.error) return entry;
    }
    return undefined;
  }

  get isFull() {
    return this.list().filter(({ error }) => !error).length >= MOST_WAITING;
  }

  add(entry) {
    this.#newest = Math.max(this.#newest + 1, Date.now());
    this.#keep({ ...entry, order: this.#newest });
  }

  /** The entry, if it was there. */
  remove(clientMsgId) {
    const entry = this.#entries.get(clientMsgId);
    this.#forget(clientMsgId);
    this.#storage.remove(this.#prefix + clientMsgId);
    return entry;
  }

  /** Mark it as refused, or (null) as waiting again. */
  mark(clientMsgId, error) {
    const entry = this.find(clientMsgId);
    if (entry) this.#keep({ ...entry, error });
  }

  /** Take over what a page that was closed has left, oldest first. */
  adopt() {
    const ids = this.#storage.keys(this.#prefix).map((key) => key.slice(this.#prefix.length));
    for (const id of ids) {
      const entry = this.#entries.has(id) ? null : this.#read(id);
      if (entry === null) continue;
      this.#entries.set(id, entry);
      this.#keptIds.add(id);
    }
    const ordered = [...this.#entries].sort(([, one], [, other]) => one.order - other.order);
    this.#entries = new Map(ordered);
  }

  #keep(entry) {
    const id = entry.client_msg_id;
    this.#entries.set(id, entry);
    if (this.#storage.set(this.#prefix + id, JSON.stringify(entry))) this.#keptIds.add(id);
    else this.#keptIds.delete(id);
  }

  #forget(id) {
    this.#entries.delete(id);
    this.#keptIds.delete(id);
  }

  #read(id) {
    try {
      const entry = JSON.parse(this.#storage.get(this.#prefix + id));
      return entry?.client_msg_id === id ? entry : null;
    } catch {
      return null;
    }
  }
}
