// The form: what shall be said, by whom and how; and the take that comes of it.
import { byId, make, say } from "./elements.js";
import { number, onLanguage, text } from "./language.js";
import { Player } from "./player.js";
import { Take } from "./take.js";
import { TakeView } from "./take_view.js";

const KINDS = { saved: "savedVoices", speaker: "speakers", alias: "otherNames" };

export class Speaking {
  #player = new Player();
  #view = new TakeView(this.#player);
  #take = null;
  #models = [];
  #voices = [];

  /** `onSpoken` gets each take that was spoken to its end, and its samples. */
  constructor(onSpoken) {
    this.onSpoken = onSpoken;
    const form = byId("speech");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.speak(this.request());
    });
    byId("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    byId("stop").onclick = () => this.stop();
    byId("model").onchange = () => this.#drawVoices();
    byId("speed").oninput = () => this.#drawSpeed();
    this.#player.addEventListener("change", () => this.#drawStop());
    onLanguage(() => this.#draw());
    this.#drawSpeed();
  }

  /** Offer these models and voices, as the server lists them. */
  offer(models, voices) {
    this.#models = models;
    this.#voices = voices;
    this.#draw();
  }

  /** What the form asks for. */
  request() {
    const filled = {
      model: byId("model").value,
      voice: byId("voice").value,
      language: byId("language").value,
      instructions: byId("instructions").value.trim(),
    };
    const request = { input: byId("text").value };
    for (const [name, value] of Object.entries(filled)) if (value) request[name] = value;
    const speed = Number(byId("speed").value);
    if (speed !== 1) request.speed = speed;
    if (byId("seed").value !== "") request.seed = Number(byId("seed").value);
    return request;
  }

  /** Put a request back into the form. */
  fill(request) {
    byId("text").value = request.input;
    byId("model").value = request.model ?? "";
    this.#drawVoices();
    // A voice of its own for this once stays out of the form.
    if (typeof request.voice !== "object") byId("voice").value = request.voice ?? "";
    byId("language").value = request.language ?? "";
    byId("instructions").value = request.instructions ?? "";
    byId("speed").value = String(request.speed ?? 1);
    byId("seed").value = request.seed === undefined ? "" : String(request.seed);
    this.#drawSpeed();
  }

  /** Speak, in place of what is being spoken. */
  async speak(request) {
    this.stop();
    say(byId("speech-error"), "");
    try {
      this.#player.begin();
    } catch (error) {
      say(byId("speech-error"), text("noAudio", { reason: error.message }));
      return;
    }
    const take = new Take(request);
    take.voiceName = this.#nameOf(request.voice);
    this.#take = take;
    this.#view.show(take);
    this.#drawStop();
    try {
      await take.run(this.#into(take));
      if (take.state === "done") this.onSpoken(take, this.#player.samples());
    } catch (error) {
      if (take === this.#take) say(byId("speech-error"), error.message);
    }
    this.#drawStop();
  }

  /** End the server's work and the sound. */
  stop() {
    this.#take?.stop();
    if (this.#player.playing) this.#player.pause();
  }

  /** Play samples that are there already, as a take that has ended. */
  replay(take, samples) {
    this.stop();
    say(byId("speech-error"), "");
    this.#take = take;
    this.#player.begin();
    this.#player.append(samples);
    this.#player.finish();
    this.#view.show(take);
  }

  /** The player as `take` may use it: a take that was replaced adds nothing any more. */
  #into(take) {
    const player = this.#player;
    const current = () => take === this.#take;
    return {
      append: (samples) => current() && player.append(samples),
      finish: () => current() && player.finish(),
      get length() {
        return player.length;
      },
    };
  }

  #nameOf(voice) {
    return this.#voices.find(({ id }) => id === voice)?.name ?? voice?.design ?? "";
  }

  #drawStop() {
    const running = this.#take?.state === "asking" || this.#take?.state === "speaking";
    byId("stop").disabled = !running && !this.#player.playing;
  }

  #draw() {
    choices(byId("model"), [["", text("anyModel")], ...this.#models.map(({ id }) => [id, id])]);
    byId("model-field").hidden = this.#models.length < 2;
    const languages = new Set(this.#models.flatMap((model) => model.languages ?? []));
    languages.delete("auto");
    choices(byId("language"), [["", text("automatic")], ...[...languages].map((name) => [name, titled(name)])]);
    this.#drawVoices();
    this.#drawSpeed();
  }

  #drawVoices() {
    const field = byId("voice");
    const before = chosen(field);
    const model = byId("model").value;
    field.replaceChildren();
    for (const [kind, title] of Object.entries(KINDS)) {
      const voices = this.#voices.filter((voice) => kindOf(voice) === kind && (!model || voice.model === model));
      if (!voices.length) continue;
      const group = make("optgroup", { label: text(title) });
      for (const { id, name } of voices) group.append(make("option", { value: id, textContent: name }));
      field.append(group);
    }
    const described = this.#models.some(({ id, type }) => type === "voice_design" && (!model || id === model));
    if (described || !field.children.length) field.append(make("option", { value: "", textContent: text("noVoice") }));
    keep(field, before);
  }

  #drawSpeed() {
    const told = `${number(Number(byId("speed").value), 2)}×`;
    byId("speed-told").textContent = told;
    byId("speed").setAttribute("aria-valuetext", told);
  }
}

function kindOf(voice) {
  return voice.kind in KINDS ? voice.kind : "saved";
}

function titled(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

function chosen(field) {
  return field.options.length ? field.value : null;
}

function choices(field, pairs) {
  const before = chosen(field);
  field.replaceChildren(...pairs.map(([value, words]) => make("option", { value, textContent: words })));
  keep(field, before);
}

/** Choose `value` again where it is still there, else the first. */
function keep(field, value) {
  const values = [...field.options].map((option) => option.value);
  field.value = values.includes(value) ? value : (values[0] ?? "");
}
