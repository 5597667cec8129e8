// Elements made by hand: text goes in as text, never as markup.

/** The element with that id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element. `properties` are set as they are; `children` are elements and strings. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A button that says `label` to the eye and `name` to a screen reader. */
export function button(label, name, onClick) {
  const element = make("button", { type: "button", textContent: label, onclick: onClick });
  element.setAttribute("aria-label", name);
  return element;
}

/** Put `words` into an element; it is left alone, and not announced again, where it says so already. */
export function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

/** Show `message` in an element that is announced, or nothing. */
export function say(element, message) {
  element.textContent = message;
  element.hidden = !message;
}
