/** A room: its name, its members and their roles, and what one may change about them. */

import { countOf, nameOf, roomAvatar, userAvatar } from "./avatar.js";
import { ask, openDialog } from "./dialog.js";
import { h, icon, iconButton, reconcile } from "./dom.js";
import { t } from "./i18n.js";
import { menuItem, openMenu } from "./menu.js";
import { peopleFinder } from "./new-conversation.js";

const PAGE = 50;
const ROW_PX = 56;
const RANK = { member: 0, admin: 1, owner: 2 };

/** Show it for a group or public room; `openRoom(id)` goes to another conversation. */
export function roomInfo(client, roomId, { openRoom }) {
  const view = new RoomInfo(client, roomId, openRoom);
  return view.load();
}

class RoomInfo {
  #client;
  #roomId;
  #openRoom;
  #head = h("div", { class: "room-head" });
  #tools = h("div", { class: "room-tools" });
  #list = h("ul", { class: "people" });
  #more = h("button", { type: "button", class: "secondary wide", hidden: true }, t("more_members"));
  #dialog;
  #attempt;
  #members = [];
  #next = null;
  #count;
  #onRooms = () => this.#changed();

  constructor(client, roomId, openRoom) {
    this.#client = client;
    this.#roomId = roomId;
    this.#openRoom = openRoom;
    this.#count = this.#room.member_count;
    this.#more.addEventListener("click", () => this.load({ isMore: true }));
    const foot = h("div", { class: "room-foot" }, danger("exit", t("leave"), () => this.#leave()),
      this.#room.role === "owner" ? danger("trash", t("delete_room"), () => this.#delete()) : null);
    const { dialog, attempt } = openDialog(t("info"), this.#head, this.#tools, this.#list, this.#more, foot);
    [this.#dialog, this.#attempt] = [dialog, attempt];
    client.addEventListener("rooms", this.#onRooms);
    dialog.addEventListener("close", () => client.removeEventListener("rooms", this.#onRooms));
    this.#drawHead();
    this.#drawTools();
    // The place of those who are being loaded, so that what is below stays where it is.
    this.#list.style.minHeight = `${Math.min(this.#count, PAGE) * ROW_PX}px`;
  }

  get #room() {
    return this.#client.book.room(this.#roomId);
  }

  get #path() {
    return `/api/rooms/${encodeURIComponent(this.#roomId)}`;
  }

  get #isAdmin() {
    return RANK[this.#room.role] >= RANK.admin;
  }

  load({ isMore = false } = {}) {
    return this.#attempt(async () => {
      const cursor = isMore && this.#next ? `&cursor=${encodeURIComponent(this.#next)}` : "";
      const { members, next } = await this.#client.request("GET", `${this.#path}/members?limit=${PAGE}${cursor}`);
      this.#members = isMore ? [...this.#members, ...members] : members;
      this.#next = next;
      this.#more.hidden = !next;
      this.#noteOwnRole();
      this.#list.style.minHeight = "";
      reconcile(this.#list, this.#members.map((member) => ({
        key: member.user.id,
        version: JSON.stringify([member.user, member.role]),
        render: () => this.#item(member),
      })));
    });
  }

  /** Roles change without an event: what the list says of oneself holds for the whole page. */
  #noteOwnRole() {
    const own = this.#members.find(({ user }) => user.id === this.#client.me.id);
    if (!own || own.role === this.#room.role) return;
    this.#client.book.changeRoom(this.#roomId, { role: own.role });
    this.#drawTools();
  }

  #changed() {
    const room = this.#room;
    if (!room) {
      this.#dialog.close();
      return;
    }
    this.#drawHead();
    if (room.member_count === this.#count) return;
    this.#count = room.member_count;
    this.load();
  }

  #drawHead() {
    const room = this.#room;
    const about = room.kind === "public" ? `${t("public")} · ${countOf(room)}` : countOf(room);
    const hint = room.kind === "public" ? h("p", { class: "muted" }, t("everyone_hint")) : "";
    this.#head.replaceChildren(
      roomAvatar(room), h("h3", { class: "name" }, nameOf(room)), h("p", { class: "muted" }, about), hint);
  }

  #drawTools() {
    if (!this.#isAdmin) {
      this.#tools.replaceChildren();
      return;
    }
    const people = peopleFinder(this.#client, (user) => this.#change("add_member", user));
    const named = { name: "name", value: nameOf(this.#room), required: true, maxlength: 100, autocomplete: "off" };
    const form = h("form", { class: "inline-form", onsubmit: (event) => this.#rename(event) },
      h("input", { ...named, "aria-label": t("room_name") }), h("button", { class: "primary" }, t("save")));
    this.#tools.replaceChildren(fold("add", t("add_people"), people), fold("edit", t("rename"), form));
  }

  #rename(event) {
    event.preventDefault();
    const form = event.target;
    return this.#attempt(async () => {
      const { room } = await this.#client.request("PATCH", this.#path, { name: form.elements.name.value });
      this.#client.book.changeRoom(this.#roomId, { name: room.name });
      form.closest("details").open = false;
    });
  }

  #item({ user, role }) {
    const isMe = user.id === this.#client.me.id;
    const name = h("span", { class: "name" }, user.display_name, isMe ? ` (${t("you")})` : "");
    const about = h("span", { class: "preview" }, `@${user.username}${role === "member" ? "" : ` · ${t(role)}`}`);
    const open = () => this.#openMenu(more, user, role);
    const more = iconButton("more", t("actions_for", { name: user.display_name }), open, { "aria-haspopup": "menu" });
    return h("li", { class: "member" }, userAvatar(user, user.status === "online"),
      h("span", { class: "room-text" }, name, about), isMe ? null : more);
  }

  #openMenu(anchor, user, role) {
    const mine = RANK[this.#room.role];
    const mayChange = mine >= RANK.admin && mine >= RANK[role];
    const turned = role === "member" ? "admin" : "member";
    const choice = (symbol, text, onclick, more = {}) => menuItem({ symbol, text, onclick, ...more });
    const become = (to) => choice("edit", t(`make_${to}`), () => this.#change("set_role", user, { role: to }));
    openMenu(anchor, user.display_name, [
      choice("person", t("talk_to", { name: user.display_name }), () => this.#talkTo(user)),
      mayChange && role !== "owner" ? become(turned) : null,
      mine === RANK.owner && role !== "owner" ? become("owner") : null,
      mayChange ? choice("trash", t("remove"), () => this.#remove(user), { isDanger: true }) : null,
    ], () => this.#list.querySelector(`[data-key="${CSS.escape(user.id)}"] button`));
  }

  #change(event, user, more = {}) {
    return this.#attempt(async () => {
      await this.#client.call(event, { room_id: this.#roomId, user_id: user.id, ...more });
      await this.load();
    });
  }

  async #remove(user) {
    const question = t("remove_sure", { name: user.display_name });
    if (await ask(question, t("remove"))) await this.#change("remove_member", user);
  }

  #talkTo(user) {
    return this.#attempt(async () => {
      const room = await this.#client.openDirect(user.id);
      this.#dialog.close();
      this.#openRoom(room.id);
    });
  }

  async #leave() {
    if (await ask(t("leave_sure"), t("leave"))) await this.#attempt(() => this.#client.leave(this.#roomId));
  }

  async #delete() {
    if (await ask(t("delete_room_sure"), t("delete_room"))) {
      await this.#attempt(() => this.#client.request("DELETE", this.#path));
    }
  }
}

function danger(symbol, text, onclick) {
  return h("button", { type: "button", class: "row danger", onclick }, icon(symbol), text);
}

function fold(symbol, text, content) {
  return h("details", { class: "fold" }, h("summary", {}, icon(symbol), text), content);
}
