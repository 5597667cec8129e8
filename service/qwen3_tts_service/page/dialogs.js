// Questions over the page. The browser's own dialogs keep the focus inside and give it back.
import { byId } from "./elements.js";

function opened(id) {
  const dialog = byId(id);
  // Escape leaves it as it was the last time.
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Whether the person agrees to `question`. */
export async function confirmed(question) {
  byId("confirm-question").textContent = question;
  return (await opened("confirm")) === "ok";
}

/** A new name in place of `name`, or null. */
export async function renamed(name) {
  const field = byId("rename-name");
  field.value = name;
  const answer = await opened("rename");
  return answer === "ok" && field.value.trim() && field.value !== name ? field.value : null;
}

/** A key, or null. */
export async function keyGiven() {
  // Two requests that were refused ask once.
  if (byId("key").open) return null;
  const field = byId("key-field");
  field.value = "";
  const answer = await opened("key");
  return answer === "ok" && field.value.trim() ? field.value.trim() : null;
}
