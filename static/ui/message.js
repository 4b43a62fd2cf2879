/** One message, sent or waiting to be sent. */

import { colorClass, userAvatar } from "./avatar.js";
import { h, icon, iconButton, unseen } from "./dom.js";
import { explain, t } from "./i18n.js";
import { body } from "./message-body.js";
import { dateAndTime, time } from "./times.js";

export const REACTIONS = { like: "👍", love: "❤️", haha: "😂", wow: "😮", sad: "😢", angry: "😠" };

export function reactionName(type) {
  return type in REACTIONS ? t(`reaction_${type}`) : type;
}

/**
 * `look` says how it stands among the others: {isMine, isFirst, isLast (of a run by one sender), isRead, showsName,
 * mayDelete}; `actions` are what one can do with it.
 */
export function messageItem(message, look, actions) {
  const { sender } = message;
  const tools = message.deleted_at ? null : toolbar(message, actions);
  return h("li", { class: classes(look), tabindex: "-1", onkeydown: (event) => pressed(event, actions) },
    look.isMine ? null : h("span", { class: "face" }, look.isLast ? userAvatar(sender) : null),
    h("div", { class: "column" },
      h("div", { class: "bubble-row" }, bubble(message, look, actions), tools),
      reactions(message, actions)));
}

/** A message of one's own that is not acknowledged yet: `entry` is the outbox's. */
export function pendingItem(entry, look, actions) {
  const state = entry.error
    ? h("div", { class: "failed", role: "alert" },
      h("span", { class: "failed-why" }, icon("alert"), t("failed", { message: explain(entry.error) })),
      // What is invalid stays so.
      entry.error.code === "invalid" ? null : link(t("retry"), actions.retry),
      link(t("edit"), actions.edit), link(t("discard"), actions.discard))
    : null;
  const mark = entry.error ? tick("alert", "mark", t("failed", { message: "" })) : tick("clock", "mark", t("pending"));
  return h("li", { class: `${classes(look)} pending`, tabindex: "-1" },
    h("div", { class: "column" },
      h("div", { class: "bubble-row" },
        h("div", { class: "bubble" }, entry.quote ? quote(entry.quote, () => {}) : null,
          body({ message_type: "text", content: entry.content }, meta(entry.at, null, mark)))),
      state));
}

function classes({ isMine, isFirst, isLast }) {
  const all = ["message", isMine ? "mine" : "theirs", isFirst && "first", isLast && "last"];
  return all.filter(Boolean).join(" ");
}

function link(text, onclick) {
  return h("button", { type: "button", class: "link", onclick }, text);
}

/** Enter on the message itself, not on something in it. */
function pressed(event, actions) {
  if (event.key !== "Enter" || event.target !== event.currentTarget) return;
  event.preventDefault();
  actions.menu(event.currentTarget.querySelector(".tools [data-tool=more]") ?? null);
}

function toolbar(message, actions) {
  const { display_name: name } = message.sender;
  const opens = { "aria-haspopup": "menu" };
  const quick = { class: "pointer-only" };
  const all = { "data-tool": "more", ...opens };
  const more = iconButton("more", t("actions_of", { name }), () => actions.menu(more), all);
  const react = iconButton("smile", t("react"), () => actions.palette(react), { ...quick, ...opens });
  const reply = iconButton("reply", t("reply"), actions.reply, quick);
  return h("div", { class: "tools" }, react, reply, more);
}

function bubble(message, look, actions) {
  const { sender } = message;
  const author = look.showsName
    ? h("span", { class: `author ${colorClass(sender)}` }, sender.display_name)
    : unseen(`${look.isMine ? t("you") : sender.display_name}: `);
  if (message.deleted_at) return tombstone(message, author);
  const edited = message.edited_at ? h("span", {}, t("edited")) : null;
  const about = meta(message.created_at, edited, look.isMine ? sentTick(look.isRead) : null);
  const quoted = message.reply_to ? quote(message.reply_to, () => actions.show(message.reply_to.seq)) : null;
  return h("div", { class: "bubble" }, author, quoted, body(message, about));
}

function tombstone(message, author) {
  const text = h("span", { class: "text" }, t("deleted"));
  const content = h("div", { class: "body" }, text, meta(message.created_at, null, null));
  return h("div", { class: "bubble tombstone" }, author, content);
}

function sentTick(isRead) {
  return isRead ? tick("read", "mark read", t("read")) : tick("sent", "mark", t("sent"));
}

function quote({ sender, content, message_type: type = "text" }, onclick) {
  const text = content === "" ? t("deleted") : (type === "text" ? content : t(`media_${type}`));
  return h("button", { type: "button", class: "quote", onclick },
    h("span", { class: `author ${colorClass(sender)}` }, sender.display_name), h("span", { class: "preview" }, text));
}

function meta(iso, before, after) {
  return h("span", { class: "meta" }, before, h("time", { datetime: iso, title: dateAndTime(iso) }, time(iso)), after);
}

function tick(symbol, className, label) {
  return h("span", { class: className, title: label }, icon(symbol), unseen(label));
}

function reactions(message, actions) {
  const counts = Object.entries(message.reaction_counts).filter(([, count]) => count > 0);
  if (counts.length === 0) return null;
  return h("div", { class: "reactions" }, counts.map(([type, count]) => {
    const label = t("reactions_of", { reaction: reactionName(type), count });
    return h("button", {
      type: "button",
      class: "reaction",
      title: label,
      "aria-label": label,
      "aria-pressed": String(message.my_reaction === type),
      onclick: () => actions.react(type),
    }, h("span", { class: "emoji" }, REACTIONS[type] ?? type), count > 1 ? h("span", {}, String(count)) : null);
  }));
}
