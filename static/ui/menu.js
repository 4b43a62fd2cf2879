/** A menu beside what opened it. The arrows move in it; Escape closes it and gives the focus back. */

import { h, icon } from "./dom.js";

const GAP_PX = 4;
const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

/**
 * Open a menu of `items` at `anchor`. `owner` yields what gets the focus back: the anchor itself may have been drawn
 * anew meanwhile.
 */
export function openMenu(anchor, label, items, owner = () => anchor) {
  const menu = h("div", { class: "menu", role: "menu", "aria-label": label, popover: "auto", onkeydown: move }, items);
  menu.addEventListener("click", ({ target }) => target.closest("button") && menu.hidePopover());
  menu.addEventListener("toggle", ({ newState }) => {
    if (newState !== "closed") return;
    // What was chosen may have taken the focus elsewhere: to a dialog, to the composer.
    const isFree = menu.contains(document.activeElement) || document.activeElement === document.body;
    menu.remove();
    anchor.setAttribute("aria-expanded", "false");
    if (isFree) owner()?.focus();
  });
  // Outside an open dialog everything is inert.
  (anchor.closest("dialog, main") ?? document.body).append(menu);
  menu.showPopover();
  anchor.setAttribute("aria-expanded", "true");
  place(menu, anchor.getBoundingClientRect());
  menu.querySelector("button").focus();
}

/** Something to do; with `checked` it is a switch. */
export function menuItem({ symbol, text, onclick, checked = null, isDanger = false }) {
  const role = checked === null ? "menuitem" : "menuitemcheckbox";
  return h("button", { type: "button", role, tabindex: "-1", class: isDanger ? "danger" : null,
    "aria-checked": checked === null ? null : String(checked), onclick }, icon(symbol), text);
}

function place(menu, anchor) {
  const { width, height } = menu.getBoundingClientRect();
  const below = anchor.bottom + GAP_PX;
  const isBelow = below + height <= innerHeight - GAP_PX;
  const top = isBelow ? below : anchor.top - height - GAP_PX;
  const left = anchor.left + width <= innerWidth - GAP_PX ? anchor.left : anchor.right - width;
  menu.style.top = `${Math.max(GAP_PX, Math.min(top, innerHeight - height - GAP_PX))}px`;
  menu.style.left = `${Math.max(GAP_PX, Math.min(left, innerWidth - width - GAP_PX))}px`;
}

function move(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  if (event.key === "Tab") event.currentTarget.hidePopover();
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  const next = buttons.indexOf(document.activeElement) + STEPS[event.key];
  const last = buttons.length - 1;
  const isJump = !Number.isFinite(next);
  buttons[isJump ? Math.max(0, Math.min(last, next)) : (next + buttons.length) % buttons.length].focus();
}
