/** Signing in and up. */

import { h } from "./dom.js";
import { explain, t } from "./i18n.js";

// What these codes mean here and nowhere else.
const MISTAKES = { unauthenticated: "wrong_login", forbidden: "no_accounts" };

/** `reason` says why one has to sign in again; empty for none. */
export function signIn(session, reason = "") {
  const card = h("main", { class: "card" });
  const draw = (isNew) => {
    card.replaceChildren(...form(session, isNew, () => draw(!isNew)));
    card.querySelector("input").focus();
  };
  draw(false);
  card.querySelector(".problem").textContent = reason;
  return h("div", { class: "sign-in" }, card);
}

function form(session, isNew, swap) {
  const problem = h("p", { class: "problem", role: "alert", id: "problem" });
  const button = h("button", { class: "primary wide" }, isNew ? t("sign_up") : t("log_in"));
  const fields = [
    field("username", t("username"), isNew ? t("username_hint") : null,
      { autocomplete: "username", autocapitalize: "none", spellcheck: "false", maxlength: 32 }),
    isNew ? field("display_name", t("display_name"), null, { autocomplete: "name", maxlength: 64 }) : null,
    field("password", t("password"), isNew ? t("password_hint") : null,
      { type: "password", maxlength: 128, autocomplete: isNew ? "new-password" : "current-password" }),
  ];
  const submit = async (event) => {
    event.preventDefault();
    const { target } = event;
    const values = Object.fromEntries(new FormData(target));
    point(target, null);
    problem.textContent = "";
    button.disabled = true;
    try {
      await (isNew ? session.register(values) : session.login(values));
    } catch (error) {
      const isTaken = isNew && error.code === "conflict";
      problem.textContent = error.code in MISTAKES ? t(MISTAKES[error.code]) : explain(error);
      point(target, isTaken ? "username" : (error.field ?? null));
    } finally {
      button.disabled = false;
    }
  };
  return [
    h("img", { src: "/static/icon.svg", alt: "", width: 64, height: 64 }),
    h("h1", {}, "Tertulia"),
    h("p", { class: "muted" }, t("about")),
    h("form", { onsubmit: submit }, fields, problem, button),
    h("p", { class: "muted" }, isNew ? t("account_old") : t("account_new"), " ",
      h("button", { type: "button", class: "link", onclick: swap }, isNew ? t("log_in") : t("sign_up"))),
    h("p", { class: "hint muted" }, t("first_user")),
  ];
}

/** Mark the field that was refused and go there. */
function point(target, name) {
  for (const input of target.querySelectorAll("input")) {
    const isWrong = input.name === name;
    input.setAttribute("aria-invalid", String(isWrong));
    if (isWrong) input.focus();
  }
}

function field(name, label, hint, properties) {
  const described = hint ? `problem hint-${name}` : "problem";
  return h("div", { class: "field" },
    h("label", { for: `in-${name}` }, label),
    h("input", { id: `in-${name}`, name, required: true, "aria-describedby": described, ...properties }),
    hint ? h("p", { class: "muted field-hint", id: `hint-${name}` }, hint) : null);
}
