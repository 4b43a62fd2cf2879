/** Brings the book up to date: `sync` after connecting, and for a room in which something is missing. */

import { between, growing } from "./lifetime.js";

const MOST_NAMED_ROOMS = 500;
const BETWEEN_REPAIRS_MS = 1_000;
const REPAIR_OF_LARGE_ROOM_MS = [1_000, 5_000];
// 256 KiB may take their time.
const ANSWER_WITHIN_MS = 45_000;
const REFRESH_AFTER_RECOVERY_MS = [5_000, 30_000];

/** What a `sync` has brought so far is of another database than what it brings now. */
class EpochChanged extends Error {}

export class Catchup {
  #link;
  #book;
  #note;
  #epoch = null;
  #epochs = 0;
  /** Whether all of one's rooms are in the book. */
  isComplete = false;
  #atWork = new Set();
  /** The rooms that one has been put into and that have not been brought yet. */
  #joining = new Set();

  /** `note(message)` is told each message that came. */
  constructor(link, book, note) {
    this.#link = link;
    this.#book = book;
    this.#note = note;
  }

  /** A connection stands; it may have `recovered` what was missed. */
  connected(recovered) {
    return this.#quietly(async (connection) => {
      if (recovered && this.isComplete) {
        this.#completeRooms();
        for (const roomId of this.#joining) this.#quietly(() => this.#join(roomId, connection));
        // Presence and the reactions of large rooms are not recovered. Many clients came back together: not at once.
        await connection.pause(between(...REFRESH_AFTER_RECOVERY_MS));
      }
      await this.#syncAll(connection);
    });
  }

  /** One has been put into a room. */
  joined(roomId) {
    this.#book.noteJoined(roomId);
    this.#joining.add(roomId);
    return this.#quietly((connection) => this.#join(roomId, connection));
  }

  /** Ask for what a room lacks, if it lacks something; once for all events that show it. */
  complete(roomId) {
    if (!this.isComplete || this.#atWork.has(roomId) || !this.#book.isIncomplete(roomId)) return;
    this.#atWork.add(roomId);
    this.#quietly((connection) => this.#repair(roomId, connection).finally(() => this.#atWork.delete(roomId)));
  }

  async #join(roomId, connection) {
    await this.#syncRoom(roomId, null, connection);
    this.#joining.delete(roomId);
    this.complete(roomId);
  }

  async #repair(roomId, connection) {
    const timeline = this.#book.timeline(roomId);
    // Reactions of large rooms are told of once a second and skip revs, for all members at once.
    if (timeline.isBehind && !timeline.hasHole && this.#book.isLarge(roomId)) {
      await connection.pause(between(...REPAIR_OF_LARGE_ROOM_MS));
    }
    for (let tries = 0; this.#book.isIncomplete(roomId); tries += 1) {
      if (tries > 1) await connection.pause(BETWEEN_REPAIRS_MS);
      await this.#syncRoom(roomId, this.#book.timeline(roomId).rev, connection);
    }
  }

  async #syncAll(connection) {
    this.isComplete = false;
    for (let failures = 0; !this.isComplete; failures += 1) {
      if (failures > 0) await connection.pause(growing(failures));
      const rooms = this.#book.toName(MOST_NAMED_ROOMS);
      const askedAt = this.#book.now;
      const seen = new Set();
      const online = new Set();
      const note = (page) => {
        for (const { room } of page.rooms) seen.add(room.id);
        for (const userId of page.online) online.add(userId);
      };
      try {
        await this.#walk(rooms, connection, note);
      } catch (error) {
        if (error instanceof EpochChanged) continue;
        throw error;
      }
      this.#book.takeEnd(seen, online, askedAt);
      this.isComplete = true;
    }
    this.#completeRooms();
  }

  #completeRooms() {
    for (const roomId of this.#book.incomplete()) this.complete(roomId);
  }

  async #syncRoom(roomId, rev, connection) {
    try {
      await this.#walkTo(roomId, rev, connection);
    } catch (error) {
      if (!(error instanceof EpochChanged)) throw error;
      // A `sync` of all rooms that goes on begins anew by itself.
      if (this.isComplete) await this.#syncAll(connection);
    }
  }

  /** Call `sync` page by page, to the end or until `isEnough(page)`. Raises EpochChanged. */
  async #walk(rooms, connection, isEnough) {
    const epochs = this.#epochs;
    let cursor;
    do {
      const asked = this.#book.asked(rooms);
      const page = await this.#ask(cursor === undefined ? { rooms } : { rooms, cursor }, connection);
      if (this.#epoch !== null && this.#epoch !== page.epoch) {
        this.#book.forget();
        this.#epochs += 1;
      }
      this.#epoch = page.epoch;
      if (epochs !== this.#epochs) throw new EpochChanged();
      this.#book.takePage(page, asked);
      for (const { changes } of page.rooms) changes.forEach(this.#note);
      for (const entry of page.rooms) if (entry.truncated) await this.#takeRest(entry, connection);
      cursor = isEnough(page) ? undefined : (page.next ?? undefined);
    } while (cursor !== undefined);
  }

  /** An answer is limited in size: ask for the rest of a room's changes. */
  async #takeRest({ room, rev }, connection) {
    const { rev: known } = this.#book.timeline(room.id);
    if (known !== null) await this.#walkTo(room.id, Math.max(known, rev), connection);
  }

  #walkTo(roomId, rev, connection) {
    const isFound = ({ rooms, left }) => left.includes(roomId) || rooms.some(({ room }) => room.id === roomId);
    return this.#walk({ [roomId]: rev }, connection, isFound);
  }

  /** Whatever goes wrong, it is asked again, later each time: without an answer there is nothing to show. */
  async #ask(payload, connection) {
    for (let failures = 0; ; failures += 1) {
      connection.check();
      try {
        return await this.#link.ask("sync", payload, { withinMs: ANSWER_WITHIN_MS });
      } catch (error) {
        await connection.pause(error.retryAfterMs ?? growing(failures));
      }
    }
  }

  /** Work that ends with the connection; the next one begins with all of it. */
  async #quietly(work) {
    const { connection } = this.#link;
    try {
      await work(connection);
    } catch (error) {
      if (!connection.isOver) throw error;
    }
  }
}
