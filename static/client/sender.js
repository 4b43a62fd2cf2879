/** Sends what waits in the outbox, the oldest first, one at a time. */

import { growing } from "./lifetime.js";
import { mayRetry } from "./session.js";

// The connection is about to end for it; the next one sends again.
const CONNECTION_ENDS = new Set(["unauthenticated", "token_invalid", "token_expired", "token_revoked"]);

export class Sender {
  #link;
  #outbox;
  #take;
  #refuse;
  #sendsOn = null;

  /** `take(message)` is told what was accepted, `refuse(entry, error)` what never will be. */
  constructor(link, outbox, { take, refuse }) {
    this.#link = link;
    this.#outbox = outbox;
    this.#take = take;
    this.#refuse = refuse;
  }

  /** Send until nothing waits or the connection ends. */
  async flush() {
    const { connection } = this.#link;
    if (!this.#link.isConnected || this.#sendsOn === connection) return;
    this.#sendsOn = connection;
    try {
      let failures = 0;
      for (let entry = this.#outbox.next(); entry; entry = this.#outbox.next()) {
        const error = await this.#deliver(entry);
        failures = error === null ? 0 : failures + 1;
        if (error !== null) await connection.pause(error.retryAfterMs ?? growing(failures - 1));
      }
    } catch (error) {
      if (!connection.isOver) throw error;
    } finally {
      if (this.#sendsOn === connection) this.#sendsOn = null;
    }
  }

  /** The error for which to send it again later, or null. */
  async #deliver(entry) {
    const { client_msg_id, room_id, content, reply_to } = entry;
    const payload = { room_id, content, client_msg_id, ...(reply_to ? { reply_to } : {}) };
    try {
      const { message } = await this.#link.ask("chat_message", payload);
      this.#outbox.remove(client_msg_id);
      this.#take(message);
    } catch (error) {
      if (mayRetry(error) || CONNECTION_ENDS.has(error.code)) return error;
      this.#refuse(entry, error);
    }
    return null;
  }
}
