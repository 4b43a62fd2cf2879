/** The chat: conversations on the left, one of them on the right; the address names the open one. */

import { userAvatar } from "./avatar.js";
import { Conversation } from "./conversation.js";
import { h, icon, iconButton, unseen } from "./dom.js";
import { explain, t } from "./i18n.js";
import { menuItem, openMenu } from "./menu.js";
import { newConversation } from "./new-conversation.js";
import { Pill } from "./pill.js";
import { editProfile } from "./profile.js";
import { RoomList } from "./room-list.js";
import { announce, isSoundOn, lookAt, setSound } from "./sound.js";
import { nothingOpen, welcome } from "./welcome.js";

const NOTICE_SHOWN_MS = 8_000;

export class Chat {
  #client;
  #session;
  #drafts = new Map();
  #list;
  #pill;
  #notice = h("div", { class: "notice", role: "status" });
  #self = h("button", { type: "button", class: "self", "aria-haspopup": "menu", onclick: () => this.#openMenu() });
  #main = h("div", { class: "main" });
  #conversation = null;
  #hasRooms = null;
  #frame = null;
  #noticeTimer = null;
  #onAddress = () => this.#follow();
  #onLook = () => {
    this.#look();
    // Days pass while nobody looks.
    this.#conversation?.changed(this.#conversation.roomId);
    this.#drawSoon();
  };
  #onOnline = () => this.#client.state.phase !== "connected" && this.#client.reconnect();

  constructor(client, session) {
    this.#client = client;
    this.#session = session;
    this.#list = new RoomList(client, (id) => this.#go(id), this.#drafts);
    this.#pill = new Pill(client, () => session.forget());
    const add = iconButton("add", t("new"), () => this.#new("people"), { class: "filled" });
    this.element = h("main", { class: "app" },
      h("h1", { class: "unseen" }, "Tertulia"),
      h("section", { class: "side", "aria-label": t("rooms") },
        h("header", { class: "bar" }, this.#self, this.#soundButton(), add),
        this.#pill.element, ...this.#list.elements),
      this.#main, this.#notice);
    this.#drawSelf();
    this.#listen();
    this.#main.replaceChildren(h("p", { class: "muted nothing" }, t("loading")));
  }

  close() {
    removeEventListener("hashchange", this.#onAddress);
    removeEventListener("online", this.#onOnline);
    removeEventListener("focus", this.#onLook);
    removeEventListener("blur", this.#onLook);
    clearTimeout(this.#noticeTimer);
    cancelAnimationFrame(this.#frame);
    this.#conversation?.close();
    lookAt(null);
    this.#client.stop();
  }

  #listen() {
    const client = this.#client;
    addEventListener("hashchange", this.#onAddress);
    addEventListener("online", this.#onOnline);
    addEventListener("focus", this.#onLook);
    addEventListener("blur", this.#onLook);
    client.addEventListener("state", ({ detail }) => {
      this.#pill.draw(detail);
      this.element.classList.toggle("cut-off", detail.phase !== "connected");
      this.#drawSoon();
    });
    client.addEventListener("rooms", () => this.#drawSoon());
    client.addEventListener("profile", () => this.#drawSelf());
    client.addEventListener("typing", ({ detail }) => {
      this.#conversation?.drawTyping(detail.roomId);
      this.#drawSoon();
    });
    client.addEventListener("messages", ({ detail }) => {
      this.#conversation?.changed(detail.roomId);
      this.#drawSoon();
    });
    client.addEventListener("received", ({ detail }) => {
      const isSeen = this.#conversation?.roomId === detail.message.room_id && document.hasFocus();
      if (!isSeen) announce(detail.message);
    });
    client.addEventListener("left", ({ detail }) => this.#left(detail));
  }

  #new(tab) {
    newConversation(this.#client, (id) => this.#go(id), tab);
  }

  /** Open a room by way of the address, so that Back leaves it again. */
  #go(roomId) {
    if (location.hash === `#${roomId}`) this.#follow();
    else location.hash = roomId;
  }

  /** Show what the address names, if it is one of one's rooms. */
  #follow() {
    const roomId = location.hash.slice(1);
    const isThere = this.#client.book.room(roomId) !== undefined;
    if (isThere && this.#conversation?.roomId === roomId) {
      this.element.classList.add("in-room");
      this.#conversation.focus();
      return;
    }
    if (!isThere && !this.#conversation) return;
    const left = this.#leave();
    if (isThere) this.#enter(roomId);
    else this.#drawNothing();
    this.#list.draw(this.#conversation?.roomId);
    if (!isThere && left) this.#list.focus(left);
  }

  #enter(roomId) {
    this.#conversation = new Conversation(this.#client, roomId, {
      back: () => (location.hash = ""),
      openRoom: (id) => this.#go(id),
      complain: (error) => this.#say(explain(error)),
      say: (text) => this.#say(text),
    }, this.#drafts.get(roomId));
    this.#drafts.delete(roomId);
    this.#main.replaceChildren(this.#conversation.element);
    this.element.classList.add("in-room");
    this.#conversation.start();
    this.#look();
  }

  /** The open room is looked at while the page is. */
  #look() {
    lookAt(document.hasFocus() ? (this.#conversation?.roomId ?? null) : null);
  }

  /** Close the open conversation, keeping what was written; the id of its room. */
  #leave() {
    const { roomId, draft } = this.#conversation ?? {};
    if (draft) this.#drafts.set(roomId, draft);
    this.#conversation?.close();
    this.#conversation = null;
    this.#look();
    this.element.classList.remove("in-room");
    return roomId;
  }

  #left({ roomId, reason }) {
    this.#drafts.delete(roomId);
    if (this.#conversation?.roomId !== roomId) return;
    this.#leave();
    this.#drafts.delete(roomId);
    history.replaceState(null, "", location.pathname);
    this.#drawNothing();
    this.#say(t(`left_${reason}`));
  }

  #say(text) {
    const clear = () => this.#notice.replaceChildren();
    this.#notice.replaceChildren(h("span", {}, text), iconButton("close", t("close"), clear));
    clearTimeout(this.#noticeTimer);
    this.#noticeTimer = setTimeout(clear, NOTICE_SHOWN_MS);
  }

  /** Draw once for all that changes in this frame. */
  #drawSoon() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#draw();
    });
  }

  #draw() {
    const rooms = this.#client.book.rooms();
    this.#list.draw(this.#conversation?.roomId);
    this.#conversation?.drawHeader();
    const unread = rooms.reduce((sum, room) => sum + room.unread, 0);
    document.title = unread > 0 ? `(${unread}) Tertulia` : "Tertulia";
    if (this.#conversation) return;
    if (location.hash !== "") this.#follow();
    if (!this.#conversation && this.#hasRooms !== rooms.length > 0) this.#drawNothing();
  }

  #drawNothing() {
    this.#hasRooms = this.#client.book.rooms().length > 0;
    this.element.classList.toggle("no-rooms", !this.#hasRooms);
    const start = (tab) => this.#new(tab);
    const say = (text) => this.#say(text);
    this.#main.replaceChildren(this.#hasRooms ? nothingOpen(start) : welcome(this.#client.me, start, say));
  }

  #drawSelf() {
    const { me } = this.#client;
    this.#self.replaceChildren(userAvatar(me),
      h("span", { class: "name" }, me.display_name), unseen(t("menu")), icon("down"));
  }

  #soundButton() {
    const draw = () => {
      button.setAttribute("aria-pressed", String(isSoundOn()));
      button.replaceChildren(icon(isSoundOn() ? "sound" : "mute"));
    };
    const button = iconButton("sound", t("sound"), () => {
      setSound(!isSoundOn());
      draw();
    });
    draw();
    return button;
  }

  #openMenu() {
    // First of all the connection: else the server ends it, and the client asks whether the login still holds.
    const leave = (everywhere) => () => {
      this.#client.stop();
      this.#session.logout({ everywhere }).catch(() => {});
    };
    openMenu(this.#self, t("menu"), [
      menuItem({ symbol: "person", text: t("profile"), onclick: () => editProfile(this.#client) }),
      menuItem({ symbol: "exit", text: t("log_out"), onclick: leave(false) }),
      menuItem({ symbol: "exit", text: t("log_out_everywhere"), onclick: leave(true), isDanger: true }),
    ]);
  }
}
