/** What stands where no conversation is open: the first steps, or an invitation to pick one. */

import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

/** The first steps on an empty installation; `start(tab)` begins something, `say` tells that it is done. */
export function welcome(me, start, say) {
  const steps = [
    step("share", t("invite"), t("invite_why"), () => invite(say)),
    step("person", t("find_person_start"), t("find_person_why"), () => start("people")),
    step("group", t("create_group"), t("create_group_why"), () => start("group")),
    step("globe", t("find_public_start"), t("find_public_why"), () => start("public")),
  ];
  return h("div", { class: "empty" },
    h("img", { src: "/static/icon.svg", alt: "", width: 72, height: 72 }),
    h("h2", {}, t("welcome", { name: me.display_name })),
    h("p", { class: "muted" }, t("welcome_hint")),
    h("ul", { class: "steps" }, steps));
}

export function nothingOpen(start) {
  return h("div", { class: "empty" },
    h("img", { src: "/static/icon.svg", alt: "", width: 72, height: 72 }),
    h("h2", {}, t("pick_room")),
    h("p", { class: "muted" }, t("pick_room_hint")),
    h("button", { type: "button", class: "primary", onclick: () => start("people") }, t("new")));
}

function step(symbol, title, why, onclick) {
  return h("li", {}, h("button", { type: "button", class: "step", onclick },
    h("span", { class: "step-icon" }, icon(symbol)),
    h("span", { class: "room-text" }, h("span", { class: "name" }, title), h("span", { class: "muted" }, why))));
}

/** Without https there is no clipboard: then the address is shown. */
async function invite(say) {
  const address = `${location.origin}/`;
  try {
    await navigator.clipboard.writeText(address);
    say(`${t("copied")}: ${address}`);
  } catch {
    say(address);
  }
}
