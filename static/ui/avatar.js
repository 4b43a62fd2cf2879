/** Pictures of people and rooms, and what a room is called. */

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

const COLORS = 8;

/** A picture, or initials on a colour that is always the same for one id. */
export function avatar({ id, name, url, isOnline = null, symbol = null, shape = "" }) {
  const letters = h("span", { class: "initials" }, symbol ? icon(symbol) : initials(name));
  const picture = isWebUrl(url) ? webPicture(url, "") : null;
  picture?.addEventListener("error", () => picture.remove());
  const dot = isOnline === null ? null : h("span", { class: isOnline ? "dot online" : "dot" });
  const look = `avatar color-${colorOf(id)} ${shape}`.trim();
  return h("span", { class: look, "aria-hidden": "true" }, letters, picture, dot);
}

/** A picture at an address; whoever serves it learns nothing of this page. */
export function webPicture(url, alt) {
  return h("img", { src: url, alt, loading: "lazy", referrerpolicy: "no-referrer" });
}

export function userAvatar(user, isOnline = null) {
  return avatar({ id: user.id, name: user.display_name, url: user.avatar_url, isOnline });
}

export function roomAvatar(room, isOnline = null) {
  if (room.peer) return userAvatar(room.peer, isOnline);
  const symbol = room.kind === "public" ? "globe" : null;
  return avatar({ id: room.id, name: nameOf(room), symbol, shape: "square" });
}

/** The class that colours a person's name like their picture. */
export function colorClass(user) {
  return `color-${colorOf(user.id)}`;
}

export function nameOf(room) {
  return room.peer ? room.peer.display_name : (room.name ?? "");
}

export function countOf(room) {
  return room.member_count === 1 ? t("members_one") : t("members", { count: room.member_count });
}

/** Pictures and media come over https alone: the page's policy lets nothing else in. */
export function isWebUrl(text) {
  return /^https:\/\/[^\s/]\S*$/i.test(text ?? "");
}

function initials(name) {
  const words = (name ?? "").trim().split(/\s+/).filter(Boolean);
  const ends = words.length > 1 ? [words[0], words.at(-1)] : words;
  return ends.map((word) => [...word][0].toUpperCase()).join("") || "?";
}

function colorOf(id) {
  let sum = 0;
  for (const char of id) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return sum % COLORS;
}
