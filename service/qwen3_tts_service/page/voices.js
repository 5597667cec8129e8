// The list of voices: each can be heard, the saved ones renamed and deleted.
import { ask } from "./api.js";
import { confirmed, renamed } from "./dialogs.js";
import { button, byId, make, say } from "./elements.js";
import { onLanguage, text } from "./language.js";

const KINDS = ["speaker", "cloned", "designed"];

export class Voices {
  #voices = [];

  /** `onTry` gets a request that lets a voice be heard; `onChanged` is called when the list is another. */
  constructor(onTry, onChanged) {
    this.onTry = onTry;
    this.onChanged = onChanged;
    onLanguage(() => this.#draw());
  }

  /** Show these voices, as the server lists them. */
  offer(voices) {
    this.#voices = voices.filter(({ kind }) => kind !== "alias");
    // One's own come first.
    this.#voices.sort((a, b) => (a.kind === "speaker") - (b.kind === "speaker"));
    this.#draw();
  }

  #draw() {
    byId("voice-list").replaceChildren(...this.#voices.map((voice) => this.#item(voice)));
  }

  #item(voice) {
    const { name, kind } = voice;
    const told = [KINDS.includes(kind) ? text(kind) : "", voice.language].filter(Boolean).join(" · ");
    const actions = make("span", { className: "actions" });
    actions.append(button(text("try"), text("tryVoice", { name }), () => this.#try(voice)));
    if (kind !== "speaker") {
      actions.append(button(text("rename"), text("renameVoice", { name }), () => this.#rename(voice)));
      actions.append(button(text("remove"), text("removeVoice", { name }), () => this.#remove(voice)));
    }
    const words = make("span", { className: "words" });
    words.append(make("strong", { textContent: name }), make("small", { textContent: told }));
    return make("li", {}, words, actions);
  }

  #try({ id, model, language }) {
    const request = { input: text("trySentence"), voice: id };
    if (model) request.model = model;
    if (language) request.language = language;
    this.onTry(request);
  }

  async #rename({ id, name }) {
    const chosen = await renamed(name);
    if (chosen !== null) await this.#change(id, { method: "PATCH", json: { name: chosen } });
  }

  async #remove({ id, name }) {
    if (await confirmed(text("removeQuestion", { name }))) await this.#change(id, { method: "DELETE" });
  }

  async #change(id, request) {
    say(byId("voices-error"), "");
    try {
      await ask(`v1/audio/voices/${id}`, request);
    } catch (error) {
      say(byId("voices-error"), error.message);
    }
    // Another tab may have been first: the list is looked at again in any case.
    await this.onChanged();
    byId("voices-title").focus();
  }
}
