/** Small parts that every view is built from. Text is only ever set as text. */

const SVG = "http://www.w3.org/2000/svg";
const CONTROLS = "a[href], button, input, summary, video, audio, [tabindex]";
const ICONS = {
  add: "M12 5v14M5 12h14",
  alert: "M12 8v5M12 16.5h.01M12 3l9.5 17h-19z",
  back: "M15 5l-7 7 7 7",
  check: "M5 12.5l4.5 4.5L19 7.5",
  clock: "M12 7v5l3 2M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  down: "M6 9l6 6 6-6",
  edit: "M4 20h4L19 9l-4-4L4 16z",
  exit: "M10 5H5v14h5M14 8l4 4-4 4M18 12H9",
  globe: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM3 12h18M12 3c5 5 5 13 0 18M12 3c-5 5-5 13 0 18",
  group: "M9 11a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM2 20c0-4 3-6 7-6s7 2 7 6M16 3.5a4 4 0 0 1 0 7M18 14.5c2 1 4 3 4 5.5",
  info: "M12 11v6M12 7.5h.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  more: "M6 12a1 1 0 1 1-1 -1 1 1 0 0 1 1 1zM13 12a1 1 0 1 1-1 -1 1 1 0 0 1 1 1zM20 12a1 1 0 1 1-1 -1 1 1 0 0 1 1 1z",
  mute: "M4 10v4h4l5 4V6L8 10zM17 10l4 4M21 10l-4 4",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 21c0-4 3-6 8-6s8 2 8 6",
  read: "M1.5 13l4.5 4.5L15.5 8M11 16l1.5 1.5L22 8",
  reply: "M10 6l-6 6 6 6M4 12h9a7 7 0 0 1 7 7",
  retry: "M20 5v5h-5M20 10a8 8 0 1 0 1 5",
  search: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM16 16l4.5 4.5",
  send: "M5 12L4 4.5 21 12 4 19.5 5 12zM5 12h7",
  sent: "M5 13l4.5 4.5L19 8",
  share: "M12 15V4M8 8l4-4 4 4M5 12v8h14v-8",
  smile: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8.5 14.5a4.5 4.5 0 0 0 7 0M9 9.5h.01M15 9.5h.01",
  sound: "M4 10v4h4l5 4V6L8 10zM17 9a4 4 0 0 1 0 6",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
};

/** An element: `h("button", { class: "primary", onclick }, "Send")`. A property or child that is null is left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick, { class: extra = "", ...properties } = {}) {
  const named = { type: "button", class: `icon-button ${extra}`.trim(), "aria-label": label, title: label };
  return h("button", { ...named, onclick, ...properties }, icon(name));
}

/** Text for those who listen to the page instead of looking at it. */
export function unseen(text) {
  return h("span", { class: "unseen" }, text);
}

/** A count that fits into a badge. */
export function atMost99(count) {
  return count > 99 ? "99+" : String(count);
}

/** Whether a finger is what points: then a focused field would bring up the keyboard over half the page. */
export function isTouch() {
  return matchMedia("(pointer: coarse)").matches;
}

/**
 * Make `parent` hold exactly `items`, each {key, version, render}: an element is kept while its version holds, so that
 * selection and scrolling survive; the focus stays where it was, or goes to what took the place of its element.
 */
export function reconcile(parent, items) {
  const active = document.activeElement;
  const holder = [...parent.children].find((child) => child.contains(active));
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = items.map(({ key, version, render }) => {
    const old = kept.get(key);
    if (old?.dataset.version === version) return old;
    const element = render();
    Object.assign(element.dataset, { key, version });
    return element;
  });
  const stays = new Set(wanted);
  for (const child of [...parent.children]) if (!stays.has(child)) child.remove();
  wanted.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
  if (holder && document.activeElement !== active) giveFocus(active, holder, wanted);
}

function giveFocus(active, holder, elements) {
  const heir = elements.find((element) => element.dataset.key === holder.dataset.key);
  const place = [...holder.querySelectorAll(CONTROLS)].indexOf(active);
  const target = active.isConnected ? active : (heir?.querySelectorAll(CONTROLS)[place] ?? heir);
  target?.focus({ preventScroll: true });
}

/**
 * One tab stop for a whole list: the arrows, Home and End go from item to item, Tab goes on from the current one to
 * what is inside it. `settle` is to be called whenever the list was drawn anew.
 */
export class Roving {
  #list;
  #items;
  #startsAtEnd;
  #current = null;

  /** `items` is a selector; with `startsAtEnd` the list is entered at its last item. */
  constructor(list, items, { startsAtEnd = false } = {}) {
    this.#list = list;
    this.#items = items;
    this.#startsAtEnd = startsAtEnd;
    list.addEventListener("keydown", (event) => this.#pressed(event));
    list.addEventListener("focusin", ({ target }) => {
      this.#current = target.closest(items);
      this.settle();
    });
  }

  settle() {
    const items = [...this.#list.querySelectorAll(this.#items)];
    // What comes at the end is the first one reached until one goes into the list.
    const isLeft = this.#startsAtEnd && !this.#list.contains(document.activeElement);
    if (isLeft || !items.includes(this.#current)) this.#current = items.at(this.#startsAtEnd ? -1 : 0);
    for (const item of items) item.tabIndex = item === this.#current ? 0 : -1;
    for (const control of this.#list.querySelectorAll("a[href], button, video, audio")) {
      control.tabIndex = control.closest(this.#items) === this.#current ? 0 : -1;
    }
  }

  #pressed(event) {
    const steps = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || event.target.matches("video, audio, input, textarea")) return;
    const items = [...this.#list.querySelectorAll(this.#items)];
    const place = items.indexOf(event.target.closest(this.#items));
    const next = Math.max(0, Math.min(items.length - 1, place + steps[event.key]));
    event.preventDefault();
    items[next]?.focus();
  }
}
