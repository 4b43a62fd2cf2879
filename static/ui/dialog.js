/** Dialogs: what they share, a question with yes and no, and a search over its results. */

import { h, iconButton, reconcile } from "./dom.js";
import { explain, t } from "./i18n.js";

const SEARCH_AFTER_MS = 200;
let dialogs = 0;

/** An open dialog: {dialog, attempt}; `attempt` does something and shows in the dialog why it failed. */
export function openDialog(title, ...content) {
  const problem = h("p", { class: "problem", role: "alert" });
  const titleId = `dialog-${++dialogs}`;
  const dialog = h("dialog", { "aria-labelledby": titleId },
    h("header", { class: "bar" },
      h("h2", { class: "name", id: titleId }, title), iconButton("close", t("close"), () => dialog.close())),
    h("div", { class: "dialog-body" }, problem, content));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("mousedown", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  const attempt = async (work) => {
    problem.textContent = "";
    try {
      return await work();
    } catch (error) {
      problem.textContent = explain(error);
      return undefined;
    }
  };
  return { dialog, attempt };
}

/** Ask before something that cannot be undone; whether to do it. */
export function ask(question, action) {
  return new Promise((resolve) => {
    let isSure = false;
    const answer = (yes) => () => {
      isSure = yes;
      dialog.close();
    };
    const no = h("button", { type: "button", class: "secondary", onclick: answer(false) }, t("cancel"));
    const yes = h("button", { type: "button", class: "primary destructive", onclick: answer(true) }, action);
    const { dialog } = openDialog(question, h("div", { class: "answers" }, no, yes));
    dialog.classList.add("question");
    dialog.addEventListener("close", () => resolve(isSure));
    no.focus();
  });
}

/** An input with its label. */
export function field(label, properties) {
  return h("label", { class: "field" }, h("span", {}, label), h("input", { autocomplete: "off", ...properties }));
}

/**
 * A search field over its results; only the newest search is shown. `search(query)` resolves to items of `reconcile`,
 * so that what one is about to press stays.
 */
export function finder(label, search, nothing = t("no_match")) {
  const results = h("ul", { class: "people" });
  const told = h("p", { class: "muted nothing-found", role: "status" });
  let timer = null;
  let asked = 0;
  const look = async (query) => {
    const mine = ++asked;
    const items = await search(query).catch((error) => [problemItem(error)]);
    if (mine !== asked) return;
    reconcile(results, items);
    results.inert = false;
    told.textContent = items.length > 0 ? "" : (query === "" ? nothing : t("no_match"));
  };
  const typed = () => {
    // What was found for less is about to go: nobody is to press it in that moment.
    results.inert = true;
    clearTimeout(timer);
    timer = setTimeout(() => look(input.value.trim()), SEARCH_AFTER_MS);
  };
  // Enter takes the first one found; a form around the search is not sent by it.
  const pressed = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    if (!results.inert) results.querySelector("button")?.click();
  };
  const properties = { type: "search", "aria-label": label, placeholder: label, maxlength: 64 };
  const input = h("input", { ...properties, oninput: typed, onkeydown: pressed });
  look("");
  return h("div", { class: "finder" }, input, results, told);
}

function problemItem(error) {
  const text = explain(error);
  return { key: "problem", version: text, render: () => h("li", { class: "problem", role: "alert" }, text) };
}
