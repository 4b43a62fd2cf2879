/** What can be done with a message. */

import { h } from "./dom.js";
import { t } from "./i18n.js";
import { menuItem, openMenu } from "./menu.js";
import { REACTIONS, reactionName } from "./message.js";

/** The six reactions alone. */
export function openPalette(anchor, message, actions, owner) {
  openMenu(anchor, t("react"), [palette(message, actions)], owner);
}

/** Everything: react, reply, copy, edit, delete. */
export function openMessageMenu(anchor, message, { isMine, mayDelete }, actions, owner) {
  const isText = message.message_type === "text";
  openMenu(anchor, t("actions_of", { name: message.sender.display_name }), [
    palette(message, actions),
    menuItem({ symbol: "reply", text: t("reply"), onclick: actions.reply }),
    navigator.clipboard ? menuItem({ symbol: "copy", text: t("copy"), onclick: actions.copy }) : null,
    isMine && isText ? menuItem({ symbol: "edit", text: t("edit"), onclick: actions.edit }) : null,
    mayDelete ? menuItem({ symbol: "trash", text: t("delete"), onclick: actions.remove, isDanger: true }) : null,
  ], owner);
}

function palette(message, actions) {
  const choices = Object.entries(REACTIONS).map(([type, emoji]) => {
    const name = reactionName(type);
    return h("button", {
      type: "button",
      role: "menuitemradio",
      tabindex: "-1",
      title: name,
      "aria-label": t("react_with", { reaction: name }),
      "aria-checked": String(message.my_reaction === type),
      onclick: () => actions.react(type),
    }, emoji);
  });
  return h("div", { class: "palette", role: "group", "aria-label": t("react") }, choices);
}
