/** Where a message is written: new, as a reply, or as another wording of an old one. */

import { h, icon, iconButton, isTouch } from "./dom.js";
import { t } from "./i18n.js";

const MOST_HEIGHT_PX = 168;

export class Composer {
  #client;
  #roomId;
  #actions;
  #replyTo = null;
  #editing = null;
  // What was being written when an edit began.
  #kept = null;
  #context = h("div", { class: "context" });
  #text;
  #send = h("button", { class: "icon-button send", "aria-label": t("send"), title: t("send") }, icon("send"));

  /** `actions`: `complain(error)`, `wrote()`, `lastOwn()`; `draft` is {text, replyTo} of the last visit. */
  constructor(client, roomId, actions, draft) {
    this.#client = client;
    this.#roomId = roomId;
    this.#actions = actions;
    this.#text = h("textarea", {
      rows: 1,
      "aria-label": t("message"),
      dir: "auto",
      oninput: () => this.#typed(),
      onkeydown: (event) => this.#pressed(event),
      onblur: () => this.#client.type(this.#roomId, false),
    });
    this.element = h("form", { class: "composer", onsubmit: (event) => this.#submit(event) },
      this.#context, h("div", { class: "composer-row" }, this.#text, this.#send));
    this.#text.value = draft?.text ?? "";
    this.#replyTo = draft?.replyTo ?? null;
    this.#draw();
  }

  /** What was written and not sent; null when there is nothing. */
  get draft() {
    const { text, replyTo } = this.#kept ?? { text: this.#text.value, replyTo: this.#replyTo };
    return text.trim() === "" ? null : { text, replyTo };
  }

  /** To be called once it is on the page: a field has no height before. */
  begin() {
    this.#grow();
  }

  focus() {
    this.#text.focus();
  }

  reply(message) {
    this.#about({ replyTo: message });
  }

  /** Change a message. What is being written comes back afterwards. */
  edit(message) {
    this.#kept ??= { text: this.#text.value, replyTo: this.#replyTo };
    this.#text.value = message.content;
    this.#about({ editing: message });
  }

  /** Go on with a text that was not sent, before what is being written. */
  resume(text, replyTo) {
    if (this.#editing) this.#about({});
    this.#text.value = [text, this.#text.value].filter(Boolean).join("\n");
    this.#about({ replyTo: replyTo ?? this.#replyTo });
  }

  /** Say to whom one writes. */
  address(name) {
    this.#text.placeholder = t("message_to", { name });
  }

  #about({ replyTo = null, editing = null }) {
    let reply = replyTo;
    if (this.#editing && !editing) {
      this.#text.value = this.#kept.text;
      reply ??= this.#kept.replyTo;
      this.#kept = null;
    }
    [this.#replyTo, this.#editing] = [reply, editing];
    this.#draw();
    this.focus();
  }

  #draw() {
    const message = this.#replyTo ?? this.#editing;
    const title = this.#replyTo ? t("replying", { name: message.sender.display_name }) : t("editing");
    this.#context.replaceChildren(...(message ? [
      icon(this.#replyTo ? "reply" : "edit"),
      h("span", { class: "context-text" },
        h("span", { class: "author" }, title), h("span", { class: "preview" }, message.content)),
      iconButton("close", t("cancel"), () => this.#about({})),
    ] : []));
    this.#send.replaceChildren(icon(this.#editing ? "check" : "send"));
    this.#grow();
  }

  #typed() {
    this.#grow();
    if (!this.#editing) this.#client.type(this.#roomId, this.#text.value.trim() !== "");
  }

  #grow() {
    this.#send.disabled = this.#text.value.trim() === "";
    this.#text.style.height = "auto";
    this.#text.style.height = `${Math.min(this.#text.scrollHeight + 2, MOST_HEIGHT_PX)}px`;
  }

  #pressed(event) {
    if (event.isComposing) return;
    if (event.key === "Escape" && (this.#replyTo || this.#editing)) this.#about({});
    if (event.key === "ArrowUp" && this.#text.value === "") this.#editLast(event);
    if (event.key !== "Enter" || event.shiftKey || isTouch()) return;
    event.preventDefault();
    this.element.requestSubmit();
  }

  #editLast(event) {
    const last = this.#actions.lastOwn();
    if (!last || this.#replyTo) return;
    event.preventDefault();
    this.edit(last);
  }

  async #submit(event) {
    event.preventDefault();
    const content = this.#text.value.trim();
    if (content === "") return;
    const [replyTo, editing] = [this.#replyTo, this.#editing];
    try {
      if (!editing) this.#client.send(this.#roomId, content, { replyTo });
      this.#text.value = "";
      this.#about({});
      if (!editing) this.#actions.wrote();
      else if (content !== editing.content) await this.#client.edit(editing, content);
    } catch (error) {
      if (editing && !this.#editing) this.edit({ ...editing, content });
      this.#actions.complain(error);
    }
  }
}
