/** The messages of one conversation: days, runs, what is unread, endless scroll up, and what can be done with each. */

import { day, dayKey } from "./times.js";
import { ask } from "./dialog.js";
import { atMost99, h, iconButton, reconcile, Roving } from "./dom.js";
import { t } from "./i18n.js";
import { messageItem, pendingItem } from "./message.js";
import { openMessageMenu, openPalette } from "./message-menu.js";

const NEAR_PX = 160;
const RUN_WITHIN_MS = 5 * 60_000;
const MOST_PAGES_TO_QUOTE = 40;

export class MessageList {
  #client;
  #roomId;
  #composer;
  #actions;
  #items = h("ol", { class: "messages" });
  #scroller = h("div", { class: "scroller", role: "log", "aria-label": t("messages") }, this.#items);
  #jump = iconButton("down", t("jump"), () => this.#toEnd(), { class: "jump" });
  #roving = new Roving(this.#items, ".message", { startsAtEnd: true });
  #resized = new ResizeObserver(() => this.#isAtEnd && this.#toEnd());
  #isAtEnd = true;
  #isPlaced = false;
  #unreadAfter = null;
  #loading = null;

  /** `composer` takes replies and edits; `actions` has `complain(error)` and `say(text)`. */
  constructor(client, roomId, composer, actions) {
    this.#client = client;
    this.#roomId = roomId;
    this.#composer = composer;
    this.#actions = actions;
    this.element = h("div", { class: "stage" }, this.#scroller, this.#jump);
    const room = client.book.room(roomId);
    if (room?.unread > 0) this.#unreadAfter = room.last_read_seq;
    this.#scroller.addEventListener("scroll", () => this.#scrolled());
    this.#resized.observe(this.#items);
    this.#resized.observe(this.#scroller);
  }

  close() {
    this.#resized.disconnect();
  }

  /** The newest messages are held: begin at what is unread, else at the end. */
  begin() {
    this.draw();
    this.#toEnd();
    this.#isPlaced = true;
    const unread = this.#items.querySelector(".separator.unread");
    if (unread && unread.offsetTop < this.#scroller.scrollTop) unread.scrollIntoView({ block: "start" });
    this.#fill();
    this.read();
  }

  draw() {
    const { book } = this.#client;
    const room = book.room(this.#roomId);
    const { rev } = book.timeline(this.#roomId);
    if (this.#unreadAfter === null && room?.unread > 0 && !document.hasFocus()) this.#unreadAfter = room.last_read_seq;
    const rows = [...this.#rows(room)];
    if (rows.length === 0) rows.push(this.#note(rev === null ? t("loading") : t("empty_room")));
    if (this.#loading) rows.unshift(this.#note(t("loading")));
    reconcile(this.#items, rows);
    this.#roving.settle();
    if (this.#isAtEnd) this.#toEnd();
    else this.#drawJump();
    this.read();
  }

  /** One's own new message: what was unread is old now, and the end is where one looks. */
  wrote() {
    this.#unreadAfter = null;
    this.#toEnd();
  }

  /** The message one has written last, to edit it; undefined while it is on its way. */
  lastOwn() {
    if (this.#client.pending(this.#roomId).length > 0) return undefined;
    const isMine = ({ sender }) => sender.id === this.#client.me.id;
    const isText = ({ message_type: type, deleted_at: deletedAt }) => type === "text" && !deletedAt;
    const { book } = this.#client;
    return book.timeline(this.#roomId).list().findLast((message) => isMine(message) && isText(message));
  }

  /** What is at the end of the list, on a page that is looked at, has been read. */
  read() {
    if (this.#isPlaced && this.#isAtEnd && document.hasFocus()) this.#client.read(this.#roomId).catch(() => {});
  }

  *#rows(room) {
    const { book } = this.#client;
    const readByOthers = book.readByOthers(this.#roomId);
    const me = this.#client.me.id;
    const messages = book.timeline(this.#roomId).list();
    const held = messages.map((message) => ({ message, sender: message.sender.id, at: message.created_at }));
    const waiting = this.#client.pending(this.#roomId).map((entry) => ({ entry, sender: me, at: entry.at }));
    const all = [...held, ...waiting];
    for (const [index, each] of all.entries()) {
      const before = all[index - 1];
      const isNewDay = !before || dayKey(before.at) !== dayKey(each.at);
      if (isNewDay) yield separator(`day ${dayKey(each.at)}`, day(each.at), "day");
      const isUnread = this.#isFirstUnread(each.message, before?.message);
      if (isUnread) yield separator("unread", t("new_messages"), "unread");
      const look = {
        isMine: each.sender === me,
        isFirst: isNewDay || isUnread || !isRun(before, each),
        isLast: !isRun(each, all[index + 1]),
      };
      if (each.message) yield this.#messageRow(each.message, look, room, readByOthers);
      else yield this.#pendingRow(each.entry, look);
    }
  }

  #isFirstUnread(message, before) {
    const after = this.#unreadAfter;
    return after !== null && message?.seq > after && (!before || before.seq <= after);
  }

  #messageRow(message, place, room, readByOthers) {
    const look = {
      ...place,
      isRead: place.isMine && message.seq <= readByOthers,
      showsName: !place.isMine && place.isFirst && room?.kind !== "direct",
      mayDelete: place.isMine || ["owner", "admin"].includes(room?.role),
    };
    const key = `seq ${message.seq}`;
    const version = JSON.stringify([message.rev, look, message.my_reaction, message.reply_to, message.sender]);
    return { key, version, render: () => messageItem(message, look, this.#actionsOf(message, look, key)) };
  }

  #actionsOf(message, look, key) {
    const owner = () => this.#items.querySelector(`[data-key="${key}"]`);
    const actions = {
      reply: () => this.#composer.reply(message),
      edit: () => this.#composer.edit(message),
      copy: () => this.#try(async () => {
        await navigator.clipboard.writeText(message.content);
        this.#actions.say(t("copied"));
      }),
      remove: () => this.#remove(message),
      react: (reaction) => this.#try(() => this.#client.react(message, reaction)),
      show: (seq) => this.#show(seq),
      palette: (anchor) => openPalette(anchor, message, actions, owner),
      menu: (anchor) => anchor && openMessageMenu(anchor, message, look, actions, owner),
    };
    return actions;
  }

  #pendingRow(entry, look) {
    const id = entry.client_msg_id;
    const actions = {
      retry: () => this.#client.retry(id),
      edit: () => {
        this.#client.discard(id);
        this.#composer.resume(entry.content, entry.quote);
      },
      discard: () => this.#client.discard(id),
    };
    const version = JSON.stringify([entry.error ?? null, look]);
    return { key: id, version, render: () => pendingItem(entry, look, actions) };
  }

  #note(text) {
    return { key: "note", version: text, render: () => h("li", { class: "nothing muted" }, text) };
  }

  async #remove(message) {
    if (await ask(t("delete_sure"), t("delete"))) await this.#try(() => this.#client.remove(message));
    this.#composer.focus();
  }

  async #try(work) {
    try {
      await work();
    } catch (error) {
      this.#actions.complain(error);
    }
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.#drawJump();
    this.read();
    if (this.#isPlaced && scrollTop < NEAR_PX) this.#loadOlder();
  }

  /** Load a page of older messages and stay at what one was looking at; whether there was one. */
  #loadOlder() {
    this.#loading ??= this.#loadPage().finally(() => {
      this.#loading = null;
      this.#scroller.removeAttribute("aria-busy");
      this.#keepingPlace(() => this.draw());
    });
    return this.#loading;
  }

  async #loadPage() {
    if (!this.#client.book.timeline(this.#roomId).hasOlder) return false;
    this.#scroller.setAttribute("aria-busy", "true");
    try {
      const found = await this.#client.loadOlder(this.#roomId);
      this.#keepingPlace(() => this.draw());
      return found;
    } catch (error) {
      this.#actions.complain(error);
      return false;
    }
  }

  /** Without enough to scroll nobody could ask for more. */
  async #fill() {
    while (this.#scroller.scrollHeight <= this.#scroller.clientHeight && (await this.#loadOlder()));
  }

  #keepingPlace(work) {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    work();
    if (!this.#isAtEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#isAtEnd = true;
    this.#drawJump();
  }

  #drawJump() {
    const unread = this.#client.book.room(this.#roomId)?.unread ?? 0;
    const label = unread > 0 ? t("jump_new", { count: unread }) : t("jump");
    this.#jump.hidden = this.#isAtEnd;
    this.#jump.title = label;
    this.#jump.setAttribute("aria-label", label);
    this.#jump.querySelector(".badge")?.remove();
    if (unread > 0) this.#jump.append(h("span", { class: "badge", "aria-hidden": "true" }, atMost99(unread)));
  }

  /** Bring a quoted message into sight, loading what lies between. */
  async #show(seq) {
    const timeline = this.#client.book.timeline(this.#roomId);
    for (let pages = 0; timeline.firstSeq > seq && pages < MOST_PAGES_TO_QUOTE; pages += 1) {
      if (!(await this.#loadOlder())) break;
    }
    const item = this.#items.querySelector(`[data-key="seq ${seq}"]`);
    if (!item) return;
    item.scrollIntoView({ block: "center" });
    item.focus({ preventScroll: true });
    item.classList.add("shown");
    item.addEventListener("animationend", () => item.classList.remove("shown"), { once: true });
  }
}

/** Whether one follows the other in a run of messages by one person. */
function isRun(one, next) {
  if (!one || !next || one.sender !== next.sender || dayKey(one.at) !== dayKey(next.at)) return false;
  return new Date(next.at) - new Date(one.at) < RUN_WITHIN_MS;
}

function separator(key, text, kind) {
  return { key, version: text, render: () => h("li", { class: `separator ${kind}` }, h("span", {}, text)) };
}
