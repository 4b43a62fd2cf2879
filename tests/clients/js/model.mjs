// A server in miniature, by the contract's rules for messages and `sync`, with small limits so that all are reached.

const NEWEST = 5;
const PAGE_ROOMS = 2;
const PAGE_CHANGES = 3;
const MOST_BEHIND = 12;
const PAGE_HISTORY = 3;

export const ME = person("me");
export const OTHERS = ["ana", "juan", "eva"].map(person);

function person(id) {
  return { id, username: id, display_name: id.toUpperCase(), avatar_url: null, status: "online", last_seen: null };
}

const copy = (value) => structuredClone(value);

class Room {
  members = new Set([ME.id, ...OTHERS.map(({ id }) => id)]);
  messages = [];
  rev = 0;
  read = new Map();

  constructor(id, { isLarge }) {
    this.id = id;
    this.isLarge = isLarge;
  }

  view() {
    const last = this.messages.at(-1) ?? null;
    const lastRead = this.read.get(ME.id) ?? 0;
    return {
      id: this.id, kind: "group", name: this.id, peer: null, created_at: "2026-01-01T00:00:00.000Z",
      member_count: this.members.size, rev: this.rev, first_seq: 1, last_seq: this.messages.length,
      last_message: last && this.shown(last), role: "member", last_read_seq: lastRead, unread: this.messages.length - lastRead,
    };
  }

  /** A message as answers show it to oneself; events leave `my_reaction` out. */
  shown(message, { asEvent = false } = {}) {
    const { reactedBy, quotes, ...rest } = message;
    const reactions = {};
    for (const [userId, type] of reactedBy) (reactions[type] ??= []).push(userId);
    const counts = Object.fromEntries(Object.entries(reactions).map(([type, ids]) => [type, ids.length]));
    const quoted = quotes === null || message.deleted_at ? null : this.messages[quotes - 1];
    const quote = quoted && { id: quoted.id, seq: quoted.seq, sender: quoted.sender, message_type: "text", content: quoted.content };
    const mine = asEvent ? {} : { my_reaction: reactedBy.get(ME.id) ?? null };
    return copy({ ...rest, reply_to: quote, reactions, reaction_counts: counts, ...mine });
  }
}

/** `emit(event, payload)` is told what each change sends to oneself, in order. */
export class Model {
  rooms = new Map();
  held = new Map();
  epoch = 1;
  clock = 0;

  constructor(emit) {
    this.emit = emit;
  }

  addRoom(id, { isLarge = false } = {}) {
    this.rooms.set(id, new Room(id, { isLarge }));
  }

  get mine() {
    return [...this.rooms.values()].filter(({ members }) => members.has(ME.id));
  }

  send(room, sender, content, { clientMsgId = null, quotes = null } = {}) {
    const seq = room.messages.length + 1;
    const first = room.messages.find((each) => clientMsgId && each.client_msg_id === clientMsgId);
    if (first) return { message: room.shown(first), duplicate: true };
    const { status, last_seen: seen, ...profile } = sender;
    const at = new Date(Date.UTC(2026, 1, 1) + (this.clock += 1)).toISOString();
    const message = {
      id: `${room.id}-${seq}-${this.epoch}`, room_id: room.id, seq, rev: (room.rev += 1), client_msg_id: clientMsgId, message_type: "text",
      content, sender: profile, attachments: [], created_at: at, edited_at: null, deleted_at: null, quotes, reactedBy: new Map(),
    };
    room.messages.push(message);
    if (sender.id === ME.id) room.read.set(ME.id, seq);
    this.#tell(room, "chat_message", { message: room.shown(message, { asEvent: true }) });
    return { message: room.shown(message), duplicate: false };
  }

  edit(room, message, content) {
    if (message.deleted_at) return;
    Object.assign(message, { content, edited_at: message.created_at, rev: (room.rev += 1) });
    this.#tell(room, "message_edited", { message: room.shown(message, { asEvent: true }) });
  }

  remove(room, message) {
    if (message.deleted_at) return;
    Object.assign(message, { content: "", deleted_at: message.created_at, rev: (room.rev += 1), reactedBy: new Map() });
    this.#tell(room, "message_deleted", { message: room.shown(message, { asEvent: true }) });
  }

  /** In large rooms it is told later, in the state it has then. */
  react(room, message, userId, type) {
    if (message.deleted_at || (message.reactedBy.get(userId) ?? null) === type) return;
    message.reactedBy.delete(userId);
    if (type !== null) message.reactedBy.set(userId, type);
    message.rev = room.rev += 1;
    const { reaction_counts: counts } = room.shown(message);
    const { seq, rev } = message;
    const event = { room_id: room.id, message_id: message.id, seq, rev, user_id: userId, reaction_type: type, reaction_counts: counts };
    if (room.isLarge) this.held.set(message.id, [room, event]);
    else this.#tell(room, "message_reaction", event);
  }

  tellHeld() {
    for (const [room, event] of this.held.values()) this.#tell(room, "message_reaction", event);
    this.held.clear();
  }

  join(room) {
    room.members.add(ME.id);
    this.emit("room_joined", { room_id: room.id });
  }

  leave(room) {
    room.members.delete(ME.id);
    this.emit("room_left", { room_id: room.id, reason: "removed" });
  }

  /** Restore an older backup: what was written since is gone, and the epoch is another one. */
  restore() {
    this.epoch += 1;
    this.held.clear();
    for (const room of this.rooms.values()) {
      room.messages.splice(Math.ceil(room.messages.length / 2));
      room.rev = Math.max(0, ...room.messages.map(({ rev }) => rev));
      room.read.set(ME.id, Math.min(room.read.get(ME.id) ?? 0, room.messages.length));
    }
  }

  answer(event, payload) {
    return this[`on_${event}`](payload);
  }

  on_chat_message({ room_id: roomId, content, client_msg_id: clientMsgId }) {
    const room = this.rooms.get(roomId);
    if (!room.members.has(ME.id)) return null;
    return this.send(room, ME, content, { clientMsgId });
  }

  on_read_message({ room_id: roomId, seq }) {
    const room = this.rooms.get(roomId);
    const known = room.read.get(ME.id) ?? 0;
    const read = Math.max(known, Math.min(seq, room.messages.length));
    room.read.set(ME.id, read);
    if (read > known) this.#tell(room, "message_read", { room_id: roomId, user_id: ME.id, last_read_seq: read });
    return { last_read_seq: read };
  }

  on_history({ room_id: roomId, before_seq: before }) {
    const room = this.rooms.get(roomId);
    if (!room.members.has(ME.id)) return null;
    const first = Math.max(1, before - PAGE_HISTORY);
    const messages = room.messages.slice(first - 1, before - 1).map((each) => room.shown(each));
    return { messages, has_more: first > 1 };
  }

  on_sync({ rooms = {}, cursor }) {
    const after = cursor === undefined ? 0 : [...this.rooms.keys()].indexOf(cursor) + 1;
    const rest = [...this.rooms.values()].slice(after).filter(({ members }) => members.has(ME.id));
    const listed = rest.slice(0, PAGE_ROOMS);
    return copy({
      me: ME,
      epoch: String(this.epoch),
      rooms: listed.map((room) => this.#synced(room, rooms)),
      left: Object.keys(rooms).filter((id) => !this.rooms.get(id)?.members.has(ME.id)),
      online: [],
      version: "0",
      next: rest.length > PAGE_ROOMS ? listed.at(-1).id : null,
    });
  }

  #synced(room, named) {
    const view = room.view();
    const entry = { room: view, rev: room.rev, changes: [], read: null, truncated: false, reset: false };
    if (!(room.id in named)) return entry;
    const rev = named[room.id];
    const read = room.isLarge ? null : Object.fromEntries(room.read);
    const isUnknown = rev !== null && (rev > room.rev || room.rev - rev > MOST_BEHIND);
    const byRev = (one, other) => one.rev - other.rev;
    if (rev === null || isUnknown) {
      const newest = room.messages.slice(-NEWEST).sort(byRev);
      return { ...entry, read, changes: newest.map((each) => room.shown(each)), reset: isUnknown };
    }
    const changed = room.messages.filter((each) => each.rev > rev).sort(byRev);
    const truncated = changed.length > PAGE_CHANGES;
    const changes = changed.slice(0, PAGE_CHANGES).map((each) => room.shown(each));
    return { ...entry, read, changes, truncated, rev: truncated ? changes.at(-1).rev : room.rev };
  }

  #tell(room, event, payload) {
    if (room.members.has(ME.id)) this.emit(event, copy(payload));
  }
}
