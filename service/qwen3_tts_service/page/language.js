// The language of the page: the browser's, or the one that was chosen here.
import { TEXTS } from "./texts.js";

const KEPT = "qwen3-tts-language";
const listeners = [];
let chosen = localStorage.getItem(KEPT) ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en");

/** The text of that name, with values in its places. */
export function text(name, values = {}) {
  return TEXTS[chosen][name].replace(/\{(\w+)\}/g, (_, key) => String(values[key]));
}

/** Call `redraw` whenever the language changes. */
export function onLanguage(redraw) {
  listeners.push(redraw);
}

/** Switch to the other language, for this browser. */
export function switchLanguage() {
  chosen = chosen === "en" ? "zh" : "en";
  localStorage.setItem(KEPT, chosen);
  translate();
  for (const redraw of listeners) redraw();
}

/** The browser's own way to write numbers and times, where it is of the page's language. */
function locale() {
  return navigator.languages.find((name) => name.toLowerCase().startsWith(chosen)) ?? chosen;
}

/** A number as people write it. */
export function number(value, digits) {
  return value.toLocaleString(locale(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A moment as people write it. */
export function moment(milliseconds) {
  return new Date(milliseconds).toLocaleString(locale(), { dateStyle: "short", timeStyle: "short" });
}

/** Fill in every text of the document that is marked with data-text or data-label. */
export function translate() {
  document.documentElement.lang = chosen;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset.label));
  }
}
