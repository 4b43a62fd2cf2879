/** Who is online and who is typing. `tell(type, detail)` is told what changed. */

const TYPING_SHOWN_MS = 7_000;

export class People {
  #tell;
  #online = new Set();
  #heardAt = new Map();
  #typing = new Map();
  #names = new Map();

  constructor(tell) {
    this.#tell = tell;
  }

  isOnline(userId) {
    return this.#online.has(userId);
  }

  /** Names of those but `me` who are typing in a room. */
  typing(roomId, me) {
    const people = [...(this.#typing.get(roomId) ?? [])].filter(([id]) => id !== me);
    return people.map(([id, { username }]) => this.#names.get(id) ?? username);
  }

  /** Take a person's name as it is shown. */
  meet({ id, display_name: name }) {
    this.#names.set(id, name);
  }

  /** Somebody's status was heard at `now`. */
  hear(userId, isOnline, now) {
    this.#heardAt.set(userId, now);
    this.#set(userId, isOnline);
  }

  /** An answer to what was asked at `askedAt` says so; what was heard since is newer. */
  learn(userId, isOnline, askedAt) {
    if ((this.#heardAt.get(userId) ?? 0) <= askedAt) this.#set(userId, isOnline);
  }

  /** All who are online were named since `askedAt`. */
  learnAll(online, askedAt) {
    for (const userId of [...this.#online]) if (!online.has(userId)) this.learn(userId, false, askedAt);
  }

  startTyping(roomId, userId, username) {
    this.stopTyping(roomId, userId);
    const timer = setTimeout(() => this.stopTyping(roomId, userId), TYPING_SHOWN_MS);
    if (!this.#typing.has(roomId)) this.#typing.set(roomId, new Map());
    this.#typing.get(roomId).set(userId, { username, timer });
    this.#tell("typing", { roomId });
  }

  stopTyping(roomId, userId) {
    const shown = this.#typing.get(roomId)?.get(userId);
    if (!shown) return;
    clearTimeout(shown.timer);
    this.#typing.get(roomId).delete(userId);
    this.#tell("typing", { roomId });
  }

  /** Nobody types in a room any more; without one, in none. */
  quiet(roomId) {
    for (const [id, people] of this.#typing) {
      if (roomId === undefined || id === roomId) for (const userId of [...people.keys()]) this.stopTyping(id, userId);
    }
  }

  #set(userId, isOnline) {
    if (isOnline) this.#online.add(userId);
    else this.#online.delete(userId);
  }
}
