/** One conversation: who it is with, the messages, who is typing, and the composer. */

import { countOf, nameOf, roomAvatar } from "./avatar.js";
import { Composer } from "./composer.js";
import { h, iconButton, isTouch } from "./dom.js";
import { t, whoTypes } from "./i18n.js";
import { MessageList } from "./message-list.js";
import { roomInfo } from "./room-info.js";
import { when } from "./times.js";

export class Conversation {
  #client;
  #actions;
  #composer;
  #list;
  #header = h("header", { class: "bar conversation-bar" });
  #typing = h("div", { class: "typing", role: "status" });
  #frame = null;
  #onLook = () => this.#list.read();

  /** `actions`: `back()`, `openRoom(id)`, `complain(error)`, `say(text)`; `draft` as of Composer. */
  constructor(client, roomId, actions, draft) {
    this.#client = client;
    this.roomId = roomId;
    this.#actions = actions;
    this.#composer = new Composer(client, roomId, {
      complain: actions.complain,
      wrote: () => this.#list.wrote(),
      lastOwn: () => this.#list.lastOwn(),
    }, draft);
    this.#list = new MessageList(client, roomId, this.#composer, actions);
    this.element = h("section", { class: "conversation" },
      this.#header, this.#list.element, this.#typing, this.#composer.element);
    this.drawHeader();
  }

  get draft() {
    return this.#composer.draft;
  }

  focus() {
    if (!isTouch()) this.#composer.focus();
  }

  async start() {
    window.addEventListener("focus", this.#onLook);
    this.#list.draw();
    this.drawTyping(this.roomId);
    this.#composer.begin();
    this.focus();
    try {
      await this.#client.open(this.roomId);
      this.#list.begin();
    } catch (error) {
      this.#actions.complain(error);
    }
  }

  close() {
    window.removeEventListener("focus", this.#onLook);
    cancelAnimationFrame(this.#frame);
    this.#list.close();
    this.#client.type(this.roomId, false);
  }

  /** Something in a room changed; draw once for all of a frame. */
  changed(roomId) {
    if (roomId !== this.roomId || this.#frame !== null) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = null;
      this.#list.draw();
    });
  }

  drawTyping(roomId) {
    if (roomId !== this.roomId) return;
    const names = this.#client.book.typing(roomId);
    const dots = h("span", { class: "dots", "aria-hidden": "true" }, h("i"), h("i"), h("i"));
    this.#typing.replaceChildren(...(names.length ? [dots, h("span", { class: "preview" }, whoTypes(names))] : []));
  }

  drawHeader() {
    const room = this.#client.book.room(this.roomId);
    if (!room) return;
    const isOnline = room.peer ? this.#client.book.isOnline(room.peer.id) : null;
    const about = this.#about(room, isOnline);
    const version = JSON.stringify([room.peer, room.name, about]);
    if (this.#header.dataset.version === version) return;
    this.#header.dataset.version = version;
    this.#composer.address(nameOf(room));
    const info = () => roomInfo(this.#client, this.roomId, this.#actions);
    const title = h("div", { class: "title" },
      h("h2", { class: "name" }, nameOf(room)), h("p", { class: "muted" }, about));
    this.#header.replaceChildren(
      iconButton("back", t("back"), this.#actions.back, { class: "back" }),
      roomAvatar(room, isOnline), title,
      room.peer ? "" : iconButton("info", t("info"), info));
  }

  #about(room, isOnline) {
    if (!room.peer) return room.kind === "public" ? `${t("public")} · ${countOf(room)}` : countOf(room);
    if (this.#client.state.phase !== "connected") return t("unknown_status");
    if (isOnline) return t("online");
    const seen = room.peer.last_seen;
    return seen ? t("seen", { time: when(seen) }) : t("offline");
  }
}
