/** What a message says: text with its links, or a picture, film or sound at an address. Never as HTML. */

import { isWebUrl, webPicture } from "./avatar.js";
import { h, icon } from "./dom.js";
import { t } from "./i18n.js";

const URLS = /(https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}])/gi;
const EMOJI = String.raw`\p{Extended_Pictographic}(?:\uFE0F|\p{Emoji_Modifier}|\u200D\p{Extended_Pictographic})*`;
const FLAG = String.raw`\p{Regional_Indicator}{2}`;
const EMOJI_ALONE = new RegExp(String.raw`^(?:(?:${EMOJI}|${FLAG})\s*){1,3}$`, "u");

const MEDIA = {
  image: (url) => {
    const picture = webPicture(url, t("media_image"));
    picture.className = "medium";
    return unlessBroken(picture, link(url, { class: "medium-link" }, picture));
  },
  video: (url) => unlessBroken(h("video", playable(url, t("media_video")))),
  audio: (url) => unlessBroken(h("audio", playable(url, t("media_audio")))),
};

/** The content with `about` (time, ticks) at its end. */
export function body({ message_type: type, content }, about) {
  const medium = isWebUrl(content) ? MEDIA[type]?.(content) : null;
  if (medium) return h("div", { class: "body media-body" }, medium, address(content, type), about);
  const isJumbo = type === "text" && EMOJI_ALONE.test(content);
  const text = h("span", { class: "text" }, linked(content));
  return h("div", { class: isJumbo ? "body jumbo" : "body", dir: "auto" }, text, about);
}

function playable(url, label) {
  return { class: "medium", src: url, controls: true, preload: "metadata", "aria-label": label };
}

/** What cannot be shown leaves its address alone. */
function unlessBroken(medium, shown = medium) {
  medium.addEventListener("error", () => shown.remove());
  return shown;
}

function address(url, type) {
  const text = h("span", { class: "preview" }, `${t(`media_${type}`)}: ${url}`);
  return link(url, { class: "address" }, icon("share"), text);
}

/** The text with its web addresses as links. */
function linked(text) {
  const parts = text.split(URLS);
  for (let index = 1; index < parts.length; index += 2) {
    // A bracket that the address itself has opened belongs to it.
    if (parts[index + 1].startsWith(")") && count(parts[index], "(") > count(parts[index], ")")) {
      parts[index] += ")";
      parts[index + 1] = parts[index + 1].slice(1);
    }
  }
  return parts.map((part, index) => (index % 2 === 1 ? link(part, {}, part) : part));
}

function count(text, char) {
  return text.split(char).length - 1;
}

function link(href, properties, ...children) {
  return h("a", { href, target: "_blank", rel: "noopener noreferrer", ...properties }, children);
}
