/**
 * The messages of one room that this client holds, and how far it has followed the room's changes.
 *
 * What is held is a run of seqs up to the newest, so that asking for what is before the first one misses nothing:
 * a change of an older message is not taken in. `rev` says up to where every change is in here; events beyond it are
 * taken too, and a change still missing between them is seen by `isBehind`.
 */

const QUOTED_CHARS = 140;
const MOST_LISTED_IDS = 20;

export class Timeline {
  /** Every change up to this `rev` is in here; null: nothing is known yet. */
  rev = null;
  /** Whether older messages than the first one held may exist. */
  hasOlder = true;
  /** The newest change that was heard of. */
  heard = 0;
  /** Seq of the oldest message held. */
  firstSeq = 1;
  #bySeq = new Map();
  // The rev at which a message was taken as a whole; `message_reaction` raises the message's own rev alone.
  #wholeAt = new Map();
  // The rev up to which one's own reaction to it is known, which events of other kinds do not show.
  #mineAt = new Map();
  #ahead = new Set();
  #list = null;
  #loading = null;
  #changedOlder = null;
  #beginnings = 0;
  #settle = {};

  constructor() {
    this.#expect();
  }

  /** The messages by ascending seq. */
  list() {
    this.#list ??= [...this.#bySeq.values()].sort((one, other) => one.seq - other.seq);
    return this.#list;
  }

  /** Whether a change was heard of and one before it was not. */
  get isBehind() {
    return this.rev !== null && this.heard > this.rev;
  }

  /** Whether a message between those held is missing. */
  get hasHole() {
    return this.list().length > 0 && this.list().at(-1).seq >= this.firstSeq + this.list().length;
  }

  /**
   * Take a room of a `sync`. `asked` is the rev that was named, or null; `heard` is what `heard` was when asking;
   * `oldestSeq` is the first one that the room has.
   */
  take({ changes, rev, truncated, reset }, { asked, heard, oldestSeq }) {
    if (reset || asked === null) {
      if (!reset && this.rev !== null && rev <= this.rev) return;
      this.#begin(changes, oldestSeq);
    } else if (this.rev === null || this.rev < asked) {
      return; // What these changes continue has been dropped since.
    }
    this.rev = Math.max(this.rev ?? 0, rev);
    for (const message of changes) this.put(message);
    // The server has answered for all that had been heard before it was asked.
    if (!truncated && this.heard <= heard) this.heard = this.rev;
    this.#advance();
    this.#settle.resolve();
  }

  /** Take the message of an event. */
  hear(message) {
    this.put(message);
    this.#follow(message.rev, { isTaken: true });
  }

  /** Take a message as it stands; of two states the greater `rev` holds. */
  put(message) {
    if (this.rev === null) return;
    if (message.edited_at || message.deleted_at) this.#updateQuotes(message);
    const { seq } = message;
    const held = this.#bySeq.get(seq);
    if (seq < this.firstSeq) this.#noteOlder(seq, message.rev);
    else if (!held || this.#isNews(message)) this.#set(this.#withQuote(this.#joined(held, message)), message.rev);
  }

  /** Take a `message_reaction`; `me` is one's own user id. */
  react(event, me) {
    const { seq, rev } = event;
    const isOlder = seq < this.firstSeq;
    if (isOlder) this.#noteOlder(seq, rev);
    if (event.user_id === me) this.#setMine(seq, rev, event.reaction_type);
    const held = this.#bySeq.get(seq);
    if (held && held.rev < rev && !held.deleted_at) {
      // Of a message that has missed a change, only the counts are known now.
      const isNext = rev === this.rev + 1;
      this.#set(reacted(held, event), isNext ? rev : this.#wholeAt.get(seq));
    }
    this.#follow(rev, { isTaken: isOlder || this.#wholeAt.get(seq) >= rev });
  }

  /** Show a person's new name and picture. */
  rename({ id, username, display_name: name, avatar_url: url }) {
    const shown = { id, username, display_name: name, avatar_url: url };
    for (const [seq, message] of this.#bySeq) {
      const isQuoted = message.reply_to?.sender.id === id;
      if (message.sender.id !== id && !isQuoted) continue;
      const sender = message.sender.id === id ? shown : message.sender;
      const quote = isQuoted ? { ...message.reply_to, sender: shown } : message.reply_to;
      this.#set({ ...message, sender, reply_to: quote }, this.#wholeAt.get(seq));
    }
  }

  /** Load a page of older messages by `ask(beforeSeq)`, which gives {messages, has_more}; whether there was one. */
  loadOlder(ask) {
    if (!this.hasOlder || this.rev === null) return Promise.resolve(false);
    this.#loading ??= this.#loadOlder(ask).finally(() => (this.#loading = null));
    return this.#loading;
  }

  /** Forget everything: the server says that what is held no longer holds. */
  reset() {
    if (this.rev !== null) this.#expect();
    this.#clear();
    this.rev = null;
    this.heard = 0;
    this.hasOlder = true;
    this.firstSeq = 1;
  }

  /** The room is gone. */
  close(error) {
    this.reset();
    this.#settle.reject(error);
  }

  #expect() {
    /** Resolves once the newest messages are held, rejects when the room goes before. */
    this.loaded = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.loaded.catch(() => {});
  }

  async #loadOlder(ask) {
    const begun = this.#beginnings;
    let page;
    let changed;
    do {
      changed = this.#changedOlder = new Map();
      page = await ask(this.firstSeq).finally(() => (this.#changedOlder = null));
      if (begun !== this.#beginnings) return false;
      // A change that was heard while the page was made and is not in it would never be heard again.
    } while (page.messages.some(({ seq, rev }) => changed.get(seq) > rev));
    const { messages } = page;
    this.hasOlder = page.has_more && messages.length > 0;
    this.firstSeq = messages[0]?.seq ?? this.firstSeq;
    for (const message of messages) this.put(message);
    return messages.length > 0;
  }

  #begin(messages, oldestSeq) {
    this.#clear();
    this.rev = 0;
    this.firstSeq = messages.length > 0 ? Math.min(...messages.map(({ seq }) => seq)) : 1;
    this.hasOlder = messages.length > 0 && this.firstSeq > oldestSeq;
  }

  #clear() {
    this.#bySeq.clear();
    this.#wholeAt.clear();
    this.#mineAt.clear();
    this.#ahead.clear();
    this.#list = null;
    this.#beginnings += 1;
  }

  #set(message, wholeAt) {
    this.#bySeq.set(message.seq, message);
    this.#wholeAt.set(message.seq, wholeAt);
    this.#list = null;
  }

  #setMine(seq, rev, reaction) {
    const held = this.#bySeq.get(seq);
    if (!held || held.deleted_at || this.#mineAt.get(seq) >= rev) return;
    this.#mineAt.set(seq, rev);
    this.#set({ ...held, my_reaction: reaction }, this.#wholeAt.get(seq));
  }

  /** A message as it stands now; a reaction heard of after that state was made stays. */
  #joined(held, message) {
    const { seq, rev } = message;
    const mineAt = this.#mineAt.get(seq) ?? 0;
    const knowsMine = "my_reaction" in message && rev >= mineAt;
    if (knowsMine) this.#mineAt.set(seq, rev);
    const mine = message.deleted_at ? null : ((knowsMine ? message : held)?.my_reaction ?? null);
    if (!held || held.rev <= rev || message.deleted_at) return { ...message, my_reaction: mine };
    const { reactions, reaction_counts: counts } = held;
    return { ...message, rev: held.rev, reactions, reaction_counts: counts, my_reaction: mine };
  }

  /** At the same rev an answer still adds one's own reaction, which events do not know. */
  #isNews(message) {
    const wholeAt = this.#wholeAt.get(message.seq);
    return message.rev > wholeAt || (message.rev === wholeAt && "my_reaction" in message);
  }

  #follow(rev, { isTaken }) {
    this.heard = Math.max(this.heard, rev);
    if (this.rev === null || !isTaken) return;
    this.#ahead.add(rev);
    this.#advance();
  }

  #advance() {
    for (const rev of this.#ahead) if (rev <= this.rev) this.#ahead.delete(rev);
    while (this.#ahead.delete(this.rev + 1)) this.rev += 1;
  }

  #noteOlder(seq, rev) {
    this.#changedOlder?.set(seq, Math.max(rev, this.#changedOlder.get(seq) ?? 0));
  }

  #withQuote(message) {
    const quoted = this.#bySeq.get(message.reply_to?.seq);
    if (quoted === undefined || quoted.id !== message.reply_to.id) return message;
    return { ...message, reply_to: { ...message.reply_to, content: shortened(quoted) } };
  }

  #updateQuotes(quoted) {
    if (this.#wholeAt.get(quoted.seq) > quoted.rev) return;
    for (const [seq, message] of this.#bySeq) {
      if (message.reply_to?.id !== quoted.id) continue;
      const quote = { ...message.reply_to, content: shortened(quoted) };
      this.#set({ ...message, reply_to: quote }, this.#wholeAt.get(seq));
    }
  }
}

function reacted(held, { rev, user_id: userId, reaction_type: reaction, reaction_counts: counts }) {
  const lists = Object.entries(held.reactions).map(([type, ids]) => [type, ids.filter((id) => id !== userId)]);
  const reactions = Object.fromEntries(lists.filter(([type]) => type in counts));
  const ids = reactions[reaction] ?? [];
  if (reaction !== null && ids.length < MOST_LISTED_IDS) reactions[reaction] = [...ids, userId];
  return { ...held, rev, reactions, reaction_counts: counts };
}

function shortened({ content, deleted_at: deletedAt }) {
  return deletedAt ? "" : [...content].slice(0, QUOTED_CHARS).join("");
}
