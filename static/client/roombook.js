/**
 * What this client knows: its rooms, their messages, who is online, who is typing, who has read how far.
 * It is told what the server said and says (`tell(type, detail)`) what changed; it never asks.
 *
 * Events and answers overtake each other: `now` counts what was heard, and what was heard after a question was asked
 * is newer than its answer.
 */

import { People } from "./people.js";
import { AnswerError } from "./session.js";
import { Timeline } from "./timeline.js";

export class RoomBook {
  now = 0;
  #tell;
  #people;
  #rooms = new Map();
  #timelines = new Map();
  #wanted = new Set();
  #reads = new Map();
  #newest = new Map();
  #ownReads = new Map();
  #joinedAt = new Map();
  #leftAt = new Map();
  #changedAt = new Map();

  constructor(me, tell) {
    this.me = me;
    this.#tell = tell;
    this.#people = new People(tell);
  }

  /** One's rooms, newest activity first. */
  rooms() {
    const activity = (room) => room.last_message?.created_at ?? room.created_at;
    return [...this.#rooms.values()].sort((one, other) => (activity(one) < activity(other) ? 1 : -1));
  }

  room(roomId) {
    return this.#rooms.get(roomId);
  }

  timeline(roomId) {
    if (!this.#timelines.has(roomId)) this.#timelines.set(roomId, new Timeline());
    return this.#timelines.get(roomId);
  }

  /** Names of the others who are typing. */
  typing(roomId) {
    return this.#people.typing(roomId, this.me.id);
  }

  isOnline(userId) {
    return this.#people.isOnline(userId);
  }

  /** How far all the others have read; 0 where it is not known (large rooms). */
  readByOthers(roomId) {
    const others = [...(this.#reads.get(roomId) ?? [])].filter(([id]) => id !== this.me.id);
    return others.length === 0 ? 0 : Math.min(...others.map(([, seq]) => seq));
  }

  /** Whether the server keeps events about the people of a room, and some reactions, to itself. */
  isLarge(roomId) {
    return !this.#reads.has(roomId);
  }

  /** A room is looked at: its messages are to be held from now on. */
  open(roomId) {
    const timeline = this.timeline(roomId);
    this.#timelines.delete(roomId);
    this.#timelines.set(roomId, timeline);
    this.#wanted.add(roomId);
    return timeline;
  }

  /** {room id: rev or null} to name in a `sync`: the rooms opened last. The messages of the others are forgotten. */
  toName(most) {
    const wanted = [...this.#timelines].filter(([roomId, { rev }]) => rev !== null || this.#wanted.has(roomId));
    for (const [roomId, timeline] of wanted.splice(0, Math.max(0, wanted.length - most))) {
      this.#wanted.delete(roomId);
      timeline.reset();
    }
    return Object.fromEntries(wanted.map(([roomId, { rev }]) => [roomId, rev]));
  }

  /** Whether a room's messages lack something that was heard of, or have yet to be loaded. */
  isIncomplete(roomId) {
    const timeline = this.#timelines.get(roomId);
    if (timeline === undefined) return false;
    return timeline.isBehind || (timeline.rev === null && this.#wanted.has(roomId));
  }

  incomplete() {
    return [...this.#timelines.keys()].filter((roomId) => this.isIncomplete(roomId));
  }

  /** What to remember of a question that names these rooms, until its answer comes. */
  asked(rooms) {
    const heard = Object.keys(rooms).map((roomId) => [roomId, this.timeline(roomId).heard]);
    return { rooms, at: this.now, heard: new Map(heard) };
  }

  /** Take a page of a `sync`; `asked` is from when it was asked for. */
  takePage(page, asked) {
    const isChanged = ["username", "display_name", "avatar_url"].some((name) => page.me[name] !== this.me[name]);
    this.me = page.me;
    if (isChanged) this.#tell("profile", { user: page.me });
    for (const entry of page.rooms) {
      if ((this.#leftAt.get(entry.room.id) ?? 0) <= asked.at) this.#takeRoom(entry, asked);
    }
    for (const userId of page.online) this.#people.learn(userId, true, asked.at);
    for (const roomId of page.left) this.#dropAsOf(roomId, asked.at);
    this.#tell("rooms", {});
  }

  /** All pages of a `sync` that was begun at `askedAt` are here: what none of them names is no more. */
  takeEnd(roomIds, online, askedAt) {
    for (const roomId of [...this.#rooms.keys()]) if (!roomIds.has(roomId)) this.#dropAsOf(roomId, askedAt);
    this.#people.learnAll(online, askedAt);
    this.#tell("rooms", {});
  }

  /** Take the message of an event. */
  hearMessage(message, { isNew = false } = {}) {
    this.#timelines.get(message.room_id)?.hear(message);
    if (isNew) this.#people.stopTyping(message.room_id, message.sender.id);
    this.#noteMessage(message);
  }

  /** Take a message as an answer shows it. */
  takeMessage(message) {
    this.#timelines.get(message.room_id)?.put(message);
    this.#noteMessage(message);
  }

  react(event) {
    this.#timelines.get(event.room_id)?.react(event, this.me.id);
    this.#tell("messages", { roomId: event.room_id });
  }

  /** Somebody has read up to `seq`; one's own cursor clears what is unread. */
  noteRead(roomId, userId, seq) {
    const cursors = this.#reads.get(roomId);
    cursors?.set(userId, Math.max(seq, cursors.get(userId) ?? 0));
    const room = this.room(roomId);
    if (userId === this.me.id) {
      const known = this.#ownReads.get(roomId)?.seq ?? 0;
      if (seq > known) this.#ownReads.set(roomId, { seq, at: ++this.now });
      if (room && seq > room.last_read_seq) this.#keep(withRead(room, seq));
    }
    this.#tell("messages", { roomId });
  }

  startTyping(roomId, userId, username) {
    this.#people.startTyping(roomId, userId, username);
  }

  stopTyping(roomId, userId) {
    this.#people.stopTyping(roomId, userId);
  }

  setOnline(userId, isOnline, lastSeen) {
    this.#people.hear(userId, isOnline, ++this.now);
    this.#changePeer(userId, { status: isOnline ? "online" : "offline", last_seen: lastSeen });
  }

  /** Show a person's new profile wherever they are named. */
  changePerson(user) {
    if (user.id === this.me.id) this.me = user;
    this.#people.meet(user);
    this.#changePeer(user.id, user);
    for (const [roomId, room] of this.#rooms) {
      const last = room.last_message;
      if (last?.sender.id === user.id) this.#rooms.set(roomId, { ...room, last_message: { ...last, sender: user } });
    }
    for (const [roomId, timeline] of this.#timelines) {
      timeline.rename(user);
      this.#tell("messages", { roomId });
    }
  }

  /** A person came into a room or left it. */
  changeMember(roomId, user, count, { isIn }) {
    const { id: userId } = user;
    this.#people.meet(user);
    const cursors = this.#reads.get(roomId);
    if (!isIn) cursors?.delete(userId);
    else if (!cursors?.has(userId)) cursors?.set(userId, this.room(roomId)?.last_seq ?? 0);
    if (!isIn) this.stopTyping(roomId, userId);
    this.changeRoom(roomId, { member_count: count });
  }

  changeRoom(roomId, changed) {
    this.#changedAt.set(roomId, ++this.now);
    const room = this.room(roomId);
    if (room) this.#keep({ ...room, ...changed });
  }

  /** Take a room that is the answer to what was asked at `askedAt`: one is in it. The room. */
  keepRoom(room, askedAt = this.now) {
    if ((this.#leftAt.get(room.id) ?? 0) > askedAt) return room;
    this.noteJoined(room.id);
    this.#keep(this.#upToDate(room, askedAt));
    return room;
  }

  noteJoined(roomId) {
    this.#joinedAt.set(roomId, ++this.now);
  }

  dropRoom(roomId, reason) {
    this.#leftAt.set(roomId, ++this.now);
    const error = new AnswerError({ code: "not_found", message: "you are not in this room" });
    this.#timelines.get(roomId)?.close(error);
    for (const kept of [this.#timelines, this.#wanted, this.#reads, this.#newest, this.#ownReads]) kept.delete(roomId);
    this.#people.quiet(roomId);
    if (!this.#rooms.delete(roomId)) return;
    this.#tell("left", { roomId, reason });
    this.#tell("rooms", {});
  }

  /** The database is another one: nothing that is held still holds, and what was open is to be loaded anew. */
  forget() {
    for (const [roomId, timeline] of this.#timelines) {
      timeline.reset();
      this.#tell("messages", { roomId });
    }
    for (const kept of [this.#reads, this.#newest, this.#ownReads, this.#changedAt]) kept.clear();
  }

  close() {
    this.#people.quiet();
    for (const timeline of this.#timelines.values()) timeline.close(new Error("the client was stopped"));
  }

  #takeRoom({ room, rev, changes, read, truncated, reset }, asked) {
    this.#rooms.set(room.id, this.#upToDate(room, asked.at));
    if (!(room.id in asked.rooms)) return;
    const known = this.#reads.get(room.id);
    const cursors = Object.entries(read ?? {}).map(([id, seq]) => [id, Math.max(seq, known?.get(id) ?? 0)]);
    if (read) this.#reads.set(room.id, new Map(cursors));
    else this.#reads.delete(room.id);
    for (const { sender } of changes) this.#people.meet(sender);
    const question = { asked: asked.rooms[room.id], heard: asked.heard.get(room.id), oldestSeq: room.first_seq };
    this.timeline(room.id).take({ rev, changes, truncated, reset }, question);
    this.#tell("messages", { roomId: room.id });
  }

  /** The room of an answer, with what was heard since it was asked for. */
  #upToDate(room, askedAt) {
    const known = this.#rooms.get(room.id);
    if (room.peer) {
      this.#people.meet(room.peer);
      this.#people.learn(room.peer.id, room.peer.status === "online", askedAt);
    }
    let view = room;
    if (known && this.#changedAt.get(room.id) > askedAt) {
      view = { ...view, name: known.name, member_count: known.member_count };
    }
    const newest = this.#newest.get(room.id);
    if (newest?.at > askedAt) view = withMessage(view, newest.message);
    const read = this.#ownReads.get(room.id);
    return read?.at > askedAt ? withRead(view, Math.max(read.seq, view.last_read_seq)) : view;
  }

  #noteMessage(message) {
    const { room_id: roomId, seq, sender } = message;
    const known = this.#newest.get(roomId)?.message;
    if (!known || isNewer(message, known)) this.#newest.set(roomId, { message, at: ++this.now });
    this.#people.meet(sender);
    const room = this.room(roomId);
    if (room) this.#keep(withMessage(room, message));
    // Sending moves one's own cursor, and nobody is told of that.
    this.noteRead(roomId, sender.id, seq);
  }

  #changePeer(userId, changed) {
    const given = Object.fromEntries(Object.entries(changed).filter(([, value]) => value !== undefined));
    for (const room of this.#rooms.values()) {
      if (room.peer?.id === userId) this.#rooms.set(room.id, { ...room, peer: { ...room.peer, ...given } });
    }
    this.#tell("rooms", {});
  }

  #dropAsOf(roomId, askedAt) {
    if ((this.#joinedAt.get(roomId) ?? 0) <= askedAt) this.dropRoom(roomId, "left");
  }

  #keep(room) {
    this.#rooms.set(room.id, room);
    this.#tell("rooms", {});
  }
}

function isNewer(message, known) {
  return message.seq > known.seq || (message.seq === known.seq && message.rev > known.rev);
}

function withMessage(room, message) {
  const last = room.last_message ?? { seq: room.last_seq, rev: 0 };
  if (message.seq < room.last_seq || !isNewer(message, last)) return room;
  return withRead({ ...room, last_message: message, last_seq: message.seq }, room.last_read_seq);
}

function withRead(room, seq) {
  return { ...room, last_read_seq: seq, unread: Math.max(0, room.last_seq - seq) };
}
