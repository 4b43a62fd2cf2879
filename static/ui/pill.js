/** The state of the connection in words, and what one can do about it. */

import { h, icon } from "./dom.js";
import { explain, t } from "./i18n.js";

const RECOVERED_SHOWN_MS = 4_000;
const NEEDS_LOGIN = new Set(["unauthenticated", "token_invalid", "token_revoked", "token_expired"]);

export class Pill {
  #before = null;
  #text = h("span", { class: "pill-text" });
  #remedies;

  /** `logIn()` is called when only signing in again helps. */
  constructor(client, logIn) {
    // The same buttons all the time: attempts go by while one of them is pressed.
    this.#remedies = {
      reconnect: button("retry", t("reconnect"), () => client.reconnect()),
      logIn: button("exit", t("log_in_again"), logIn),
    };
    this.element = h("div", { class: "pill", role: "status" },
      h("span", { class: "light" }), this.#text, Object.values(this.#remedies));
    this.draw(client.state);
  }

  draw({ phase, attempt, code, message, recovered }) {
    const isBack = phase === "connected" && recovered && this.#before !== null && this.#before !== "connected";
    this.#before = phase;
    const isRefused = phase === "refused" || phase === "ended";
    const words = {
      connecting: () => t("connecting"),
      connected: () => t(isBack ? "recovered" : "connected"),
      reconnecting: () => (attempt ? t("reconnecting_n", { attempt }) : t("reconnecting")),
    };
    const text = isRefused ? t("refused", { message: why(phase, code, message) }) : words[phase]();
    this.element.className = `pill ${isRefused ? "refused" : phase}`;
    this.#text.textContent = text;
    this.#remedies.logIn.hidden = !NEEDS_LOGIN.has(code);
    this.#remedies.reconnect.hidden = NEEDS_LOGIN.has(code) || phase === "connected" || phase === "connecting";
    if (isBack) setTimeout(() => this.#before === "connected" && this.draw({ phase: "connected" }), RECOVERED_SHOWN_MS);
  }
}

/** A live connection is ended with `rate_limited` when its user has opened too many. */
function why(phase, code, message) {
  return phase === "ended" && code === "rate_limited" ? t("too_many") : explain({ code, message });
}

function button(symbol, text, onclick) {
  return h("button", { type: "button", class: "remedy", onclick }, icon(symbol), text);
}
