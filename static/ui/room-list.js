/** The list of conversations, newest activity first, with a search over their names. */

import { nameOf, roomAvatar } from "./avatar.js";
import { atMost99, h, icon, reconcile, Roving, unseen } from "./dom.js";
import { t, whoTypes } from "./i18n.js";
import { when } from "./times.js";

export class RoomList {
  #client;
  #open;
  #drafts;
  #list = h("ul", {
    class: "room-list",
    onpointerdown: (event) => (this.#held = event.target),
    onpointerup: (event) => this.#released(event),
  });
  /** What was pressed last. */
  #held = null;
  #roving = new Roving(this.#list, ".room");
  #nothing = h("p", { class: "muted nothing-found", role: "status" });
  #search = h("input", {
    type: "search",
    placeholder: t("search_rooms"),
    "aria-label": t("search_rooms"),
    oninput: () => this.draw(this.#openId),
    onkeydown: (event) => this.#pressed(event),
  });
  #openId = null;

  /** `open(roomId)` is called with what was chosen; `drafts` is a map of what is written and not sent. */
  constructor(client, open, drafts) {
    this.#client = client;
    this.#open = open;
    this.#drafts = drafts;
    this.elements = [
      h("div", { class: "search" }, icon("search"), this.#search),
      h("nav", { class: "rooms", "aria-label": t("rooms") }, this.#list, this.#nothing),
    ];
  }

  draw(openId) {
    this.#openId = openId;
    const wanted = this.#search.value.trim().toLowerCase();
    const rooms = this.#client.book.rooms().filter((room) => nameOf(room).toLowerCase().includes(wanted));
    reconcile(this.#list, rooms.map((room) => this.#row(room)));
    this.#nothing.textContent = rooms.length === 0 && wanted !== "" ? t("no_match") : "";
    this.#roving.settle();
  }

  focus(roomId) {
    this.#list.querySelector(`[data-key="${CSS.escape(roomId)}"] button`)?.focus();
  }

  /** A row that changes while it is pressed is another element, and none hears a click. */
  #released({ target, button }) {
    const [held, key] = [this.#held, target.closest("[data-key]")?.dataset.key];
    this.#held = null;
    if (button === 0 && held && !held.isConnected && key && held.closest("[data-key]")?.dataset.key === key) this.#open(key);
  }

  /** From the search down to the first room found. */
  #pressed(event) {
    if (event.key !== "ArrowDown" && event.key !== "Enter") return;
    event.preventDefault();
    const first = this.#list.querySelector(".room");
    if (event.key === "Enter") first?.click();
    else first?.focus();
  }

  #row(room) {
    const { book } = this.#client;
    const look = {
      isOpen: room.id === this.#openId,
      isOnline: room.peer ? book.isOnline(room.peer.id) : null,
      typing: book.typing(room.id),
      readBy: book.isLarge(room.id) ? null : book.readByOthers(room.id),
      draft: room.id === this.#openId ? null : (this.#drafts.get(room.id)?.text ?? null),
      waiting: this.#client.pending(room.id).at(-1) ?? null,
      time: room.last_message ? when(room.last_message.created_at) : "",
    };
    return { key: room.id, version: JSON.stringify([room, look]), render: () => this.#item(room, look) };
  }

  #item(room, look) {
    const { last_message: last, unread } = room;
    const button = h("button", { type: "button", class: unread > 0 ? "room has-unread" : "room",
      "aria-current": look.isOpen ? "true" : null, onclick: () => this.#open(room.id) },
    roomAvatar(room, look.isOnline),
    h("span", { class: "room-text" },
      h("span", { class: "room-line" }, h("span", { class: "name" }, nameOf(room)),
        look.isOnline ? unseen(t("online")) : null,
        last ? h("time", { datetime: last.created_at }, look.time) : null),
      h("span", { class: "room-line" }, this.#preview(room, look), badge(unread))));
    return h("li", {}, button);
  }

  #preview({ last_message: last, peer }, { typing, readBy, draft, waiting }) {
    if (typing.length > 0) return h("span", { class: "preview typing-now" }, peer ? t("typing_short") : whoTypes(typing));
    if (draft) return h("span", { class: "preview" }, h("span", { class: "draft" }, t("draft")), ` ${draft}`);
    if (waiting) return waitingPreview(waiting, peer);
    if (!last) return h("span", { class: "preview" }, t("no_messages"));
    const isMine = last.sender.id === this.#client.me.id;
    const author = isMine ? t("you") : last.sender.display_name;
    const said = last.message_type === "text" ? last.content : t(`media_${last.message_type}`);
    const text = last.deleted_at ? t("deleted") : said;
    const isRead = last.seq <= readBy;
    const state = isRead ? "read" : "sent";
    // Who has read is only known of rooms that were opened.
    const mark = isMine && !last.deleted_at && readBy !== null
      ? h("span", { class: isRead ? "mark read" : "mark" }, icon(state), unseen(t(state)))
      : null;
    return h("span", { class: "preview" }, mark, peer ? text : `${author}: ${text}`);
  }
}

/** What one has written last and the server does not have yet. */
function waitingPreview({ content, error }, peer) {
  const why = error ? t("failed", { message: "" }) : t("pending");
  return h("span", { class: "preview" },
    h("span", { class: error ? "mark danger" : "mark" }, icon(error ? "alert" : "clock"), unseen(why)),
    peer ? content : `${t("you")}: ${content}`);
}

function badge(unread) {
  if (unread <= 0) return null;
  return h("span", { class: "badge" }, unseen(t("unread", { count: unread })),
    h("span", { "aria-hidden": "true" }, atMost99(unread)));
}
