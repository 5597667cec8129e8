// Making a voice that is kept: of a recording of somebody who agreed, or of a description.
import { ask } from "./api.js";
import { byId, make, say, write } from "./elements.js";
import { number, onLanguage, text } from "./language.js";
import { canRecord, Recorder } from "./recorder.js";

/** Root mean square below which speech is too quiet for the server (-45 dBFS), and the sample that is cut off. */
const TOO_QUIET = 10 ** (-45 / 20);
const TOO_LOUD = 0.998;

/** A form for a recording. `onSaved` is called with the voice. */
export class FromRecording {
  #recorder = null;
  #recording = null;

  constructor(onSaved) {
    this.onSaved = onSaved;
    byId("cloning").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    byId("record").onclick = () => (this.#recorder ? this.#end() : this.#begin());
    byId("clone-file").onchange = (event) => this.#use(event.target.files[0] ?? null);
    onLanguage(() => this.#draw());
    this.#draw();
  }

  /** Show the form where a model can listen, else why there is none. */
  offer(models) {
    const able = models.some(({ type }) => type === "base");
    byId("cloning").hidden = !able;
    byId("no-cloning").hidden = able;
    languages(byId("clone-language"), models);
  }

  async #begin() {
    say(byId("clone-error"), "");
    const recorder = new Recorder(
      (seconds, loudness, peak) => this.#recorder === recorder && this.#told(seconds, loudness, peak),
      () => this.#end(),
    );
    try {
      await recorder.start();
    } catch (error) {
      say(byId("clone-error"), text("microphoneRefused", { reason: error.message }));
      return;
    }
    this.#recorder = recorder;
    this.#draw();
  }

  async #end() {
    const recorder = this.#recorder;
    // It was full, and the person was as quick to end it.
    if (recorder === null) return;
    this.#recorder = null;
    const seconds = number(recorder.seconds, 1);
    byId("clone-file").value = "";
    this.#use(await recorder.stop());
    byId("record-told").textContent = text("recorded", { seconds });
  }

  #told(seconds, loudness, peak) {
    // Decibels, as ears count: -60 is nothing, 0 is as loud as it can be.
    byId("level").value = Math.max(0, 60 + 20 * Math.log10(loudness || 1e-6));
    const advice = peak >= TOO_LOUD ? text("tooLoud") : loudness < TOO_QUIET ? text("tooQuiet") : "";
    const whole = Math.floor(seconds);
    write(byId("record-told"), `${text("recording", { seconds: whole })} ${advice}`);
  }

  #use(file) {
    this.#recording = file;
    const heard = byId("listen-back");
    if (heard.src) URL.revokeObjectURL(heard.src);
    if (file === null) heard.removeAttribute("src");
    else heard.src = URL.createObjectURL(file);
    byId("listen-back-box").hidden = file === null;
    this.#draw();
  }

  async #save() {
    if (this.#recording === null) return say(byId("clone-error"), text("needsRecording"));
    const form = new FormData();
    form.append("name", byId("clone-name").value);
    form.append("consent", String(byId("clone-consent").checked));
    form.append("ref_text", byId("clone-said").value.trim());
    form.append("language", byId("clone-language").value);
    form.append("audio", this.#recording, "recording");
    const saved = await sent(byId("cloning"), "clone", { form });
    if (saved === null) return undefined;
    byId("cloning").reset();
    this.#use(null);
    return this.onSaved(saved);
  }

  #draw() {
    const allowed = canRecord();
    byId("record").hidden = byId("level-box").hidden = !allowed;
    byId("no-microphone").hidden = allowed;
    byId("record").textContent = text(this.#recorder ? "stopRecording" : "record");
    byId("level-box").hidden = this.#recorder === null;
    byId("record-told").textContent = "";
  }
}

/** A form for a description. `onListen` gets the request that lets the voice be heard. */
export class FromDescription {
  #heard = null;

  constructor(onListen, onSaved) {
    this.onListen = onListen;
    this.onSaved = onSaved;
    byId("designing").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    byId("design-listen").onclick = () => this.#listen();
    onLanguage(() => this.#draw());
    this.#draw();
  }

  /** Show the form where models can speak and listen, else why there is none. */
  offer(models) {
    const able = ["voice_design", "base"].every((kind) => models.some(({ type }) => type === kind));
    byId("designing").hidden = !able;
    byId("no-designing").hidden = able;
    languages(byId("design-language"), models);
  }

  #described() {
    const described = { design: byId("design-words").value.trim(), text: byId("design-sample").value };
    const language = byId("design-language").value;
    return language ? { ...described, language } : described;
  }

  #listen() {
    if (!byId("design-words").reportValidity()) return;
    const { design, text: input, language } = this.#described();
    // The voice that is heard is the one that is saved.
    const seed = Math.floor(Math.random() * 2 ** 31);
    this.#heard = { key: JSON.stringify(this.#described()), seed };
    const request = { input, voice: { design }, seed };
    this.onListen(language ? { ...request, language } : request);
  }

  async #save() {
    const described = this.#described();
    const json = { name: byId("design-name").value, ...described };
    if (this.#heard?.key === JSON.stringify(described)) json.seed = this.#heard.seed;
    const saved = await sent(byId("designing"), "design", { json });
    if (saved === null) return;
    byId("designing").reset();
    this.#draw();
    this.onSaved(saved);
  }

  #draw() {
    const field = byId("design-sample");
    if (!field.value || field.value === field.defaultValue) field.value = field.defaultValue = text("trySentence");
  }
}

/** Send a new voice; null where it was refused, which is then said in the form. */
async function sent(form, name, body) {
  const button = form.querySelector("[type=submit]");
  say(byId(`${name}-error`), "");
  say(byId(`${name}-told`), text("saving"));
  button.disabled = true;
  try {
    const voice = await (await ask("v1/audio/voices", { method: "POST", ...body })).json();
    say(byId(`${name}-told`), text("saved", { name: voice.name }));
    return voice;
  } catch (error) {
    say(byId(`${name}-told`), "");
    say(byId(`${name}-error`), error.message);
    return null;
  } finally {
    button.disabled = false;
  }
}

function languages(field, models) {
  const before = field.value;
  const known = [...new Set(models.flatMap((model) => model.languages ?? []))].filter((name) => name !== "auto");
  field.replaceChildren(
    make("option", { value: "", textContent: text("automatic") }),
    ...known.map((name) => make("option", { value: name, textContent: name })),
  );
  field.value = known.includes(before) ? before : "";
}
