/** The words of the page in the reader's language, and what an error means to a person. */

import { EN } from "./words-en.js";
import { ES } from "./words-es.js";

const preferred = globalThis.navigator?.language ?? "en";
export const language = preferred.toLowerCase().startsWith("es") ? "es" : "en";
/** For dates: the reader's region too, where its language is one of the page's. */
export const locale = preferred.toLowerCase().startsWith(language) ? preferred : language;

const words = language === "es" ? ES : EN;

/** The text of a key, with {names} filled in. */
export function t(key, values = {}) {
  return words[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** Who is typing, of at least one name. */
export function whoTypes(names) {
  if (names.length === 1) return t("typing", { name: names[0] });
  if (names.length > 2) return t("typing_many", { count: names.length });
  return t("typing_two", { names: new Intl.ListFormat(language).format(names) });
}

/** What an error means to the person at the page, by its code. */
export function explain(error) {
  const { field, message, errorId, retryAfterMs } = error ?? {};
  // What the browser itself throws has a number for its code.
  const code = typeof error?.code === "number" ? "other" : error?.code;
  if (code === "rate_limited" && retryAfterMs) return t("error_rate_limited_for", { seconds: seconds(retryAfterMs) });
  if (code === "invalid" && `invalid_${field}` in words) return t(`invalid_${field}`);
  if (code === "internal" && !errorId) return t("error_internal_plain");
  const key = `error_${code ?? "network"}`;
  return key in words ? t(key, { message, id: errorId }) : t("error_other", { message });
}

function seconds(ms) {
  return Math.max(1, Math.ceil(ms / 1000)).toLocaleString(locale);
}
