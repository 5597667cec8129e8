// The list of what was spoken in this browser.
import { confirmed } from "./dialogs.js";
import { button, byId, make, say } from "./elements.js";
import { History } from "./history.js";
import { moment, number, onLanguage, text } from "./language.js";

export class HistoryView {
  #history = new History();
  #takes = [];
  // Tabs of one browser share the history, so they tell each other.
  #tabs = new BroadcastChannel("qwen3-tts-history");

  /** `onReplay` gets a kept take and its samples, `onAgain` the request that gives the same speech. */
  constructor(onReplay, onAgain) {
    this.onReplay = onReplay;
    this.onAgain = onAgain;
    this.#tabs.onmessage = () => this.#look();
    byId("forget-all").onclick = () => this.#forgetAll();
    onLanguage(() => this.#draw());
    this.#look();
  }

  /** Keep what was spoken to its end. */
  add(take, samples) {
    const { request, voiceName, seed, firstSoundMs, facts } = take;
    const kept = { when: Date.now(), request, voiceName, seed, firstSoundMs, facts };
    return this.#change(() => this.#history.add(kept, samples));
  }

  async #replay(take) {
    const samples = await this.#history.sound(take.id);
    // Forgotten in another tab, which will have said so by now.
    if (samples) this.onReplay(take, samples);
  }

  async #change(change) {
    try {
      await change();
    } catch (error) {
      say(byId("history-error"), text("historyUnavailable", { reason: String(error) }));
      return;
    }
    this.#tabs.postMessage("changed");
    await this.#look();
  }

  async #look() {
    try {
      this.#takes = await this.#history.all();
    } catch (error) {
      say(byId("history-error"), text("historyUnavailable", { reason: String(error) }));
    }
    this.#draw();
  }

  async #forgetAll() {
    if (await confirmed(text("forgetQuestion"))) await this.#change(() => this.#history.clear());
    byId("history-title").focus();
  }

  #draw() {
    byId("history-list").replaceChildren(...this.#takes.map((take) => this.#item(take)));
    byId("history-empty").hidden = this.#takes.length > 0;
    byId("forget-all").hidden = this.#takes.length === 0;
  }

  #item(take) {
    const { id, request, seed, facts } = take;
    const words = shortened(request.input);
    const seconds = facts ? text("seconds", { value: number(facts.audio_seconds, 1) }) : "";
    const told = [take.voiceName, seconds, moment(take.when)].filter(Boolean).join(" · ");
    const actions = make("span", { className: "actions" });
    actions.append(
      button(text("replay"), text("replayOf", { text: words }), () => this.#replay(take)),
      button(text("again"), text("againOf", { text: words }), () => this.onAgain({ ...request, seed })),
      button(text("forget"), text("forgetOf", { text: words }), () => {
        byId("history-title").focus();
        return this.#change(() => this.#history.remove(id));
      }),
    );
    const shown = make("span", { className: "words" });
    shown.append(make("strong", { textContent: words }), make("small", { textContent: told }));
    return make("li", {}, shown, actions);
  }
}

function shortened(words) {
  const letters = [...words.trim()];
  return letters.length > 80 ? `${letters.slice(0, 79).join("")}…` : letters.join("");
}
