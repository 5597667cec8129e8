// The server's API: paths, the key, and everything that goes wrong as one kind of error with words in it.
import { text } from "./language.js";

const KEY = "qwen3-tts-key";

/** Hears "keyneeded" when the server does not let the page in. */
export const events = new EventTarget();

/** What the server, or the way to it, refused. `status` is 0 where nobody answered. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep the key until the tab is closed. */
export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

/**
 * Send a request; the answer when it is a good one.
 * `path` is relative to the page. `json` or `form` is the body. Throws ApiError, and AbortError through `signal`.
 */
export async function ask(path, { method = "GET", json, form, signal } = {}) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (json) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, body: json ? JSON.stringify(json) : form });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(text("unreachable"), 0);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) events.dispatchEvent(new Event("keyneeded"));
  throw new ApiError(await words(answer), answer.status);
}

async function words(answer) {
  let message = `HTTP ${answer.status}`;
  try {
    message = (await answer.json()).error.message;
  } catch {
    // A proxy's own page: its status has to do.
  }
  const seconds = answer.headers.get("Retry-After");
  return seconds ? `${message}. ${text("retryAfter", { seconds })}` : message;
}
