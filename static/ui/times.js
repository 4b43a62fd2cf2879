/** Dates and times in the reader's language and zone. */

import { locale } from "./i18n.js";

const clock = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit" });
const weekday = new Intl.DateTimeFormat(locale, { weekday: "short" });
const shortDate = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const longDate = new Intl.DateTimeFormat(locale, { weekday: "long", day: "numeric", month: "long" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "short" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
const WEEK_DAYS = 7;

export function time(iso) {
  return clock.format(new Date(iso));
}

export function dateAndTime(iso) {
  return full.format(new Date(iso));
}

/** Short enough for a list: the clock for today, the day for this week, else the date. */
export function when(iso) {
  const days = daysAgo(iso);
  if (days === 0) return time(iso);
  return (days < WEEK_DAYS ? weekday : shortDate).format(new Date(iso));
}

/** "Today", "Yesterday", or the date. */
export function day(iso) {
  const days = daysAgo(iso);
  const text = days < 2 ? relative.format(-days, "day") : longDate.format(new Date(iso));
  return text.charAt(0).toLocaleUpperCase(locale) + text.slice(1);
}

export function dayKey(iso) {
  return new Date(iso).toDateString();
}

/** Clocks differ: what came from "tomorrow" is today's. */
function daysAgo(iso) {
  const midnight = (date) => new Date(date).setHours(0, 0, 0, 0);
  return Math.max(0, Math.round((midnight(Date.now()) - midnight(iso)) / 86_400_000));
}
