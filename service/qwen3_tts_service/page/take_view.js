// The card below the text: waveform, position, figures, parts and the download of one take.
import { byId, make, say, write } from "./elements.js";
import { number, onLanguage, text } from "./language.js";
import { rendered } from "./take.js";
import { Waveform } from "./waveform.js";

const STATES = {
  asking: "stateAsking",
  speaking: "stateSpeaking",
  done: "stateDone",
  stopped: "stateStopped",
  failed: "stateFailed",
};

const FOLLOW_MS = 40;

export class TakeView {
  #take = null;
  #frame = 0;
  #followed = 0;

  constructor(player) {
    this.player = player;
    this.waveform = new Waveform(byId("waveform"), player, (part) => this.#seek(part * player.seconds));
    byId("resume").onclick = () => (player.playing ? player.pause() : player.play());
    byId("position").oninput = (event) => this.#seek(Number(event.target.value));
    byId("download").onclick = () => this.#download();
    player.addEventListener("change", () => this.#draw());
    player.addEventListener("sound", () => this.#drawPosition());
    onLanguage(() => this.#draw());
  }

  /** Show that take from now on: what is new of it, and how the player goes. */
  show(take) {
    this.#take = take;
    byId("take").dataset.empty = "false";
    say(byId("take-error"), "");
    byId("parts").replaceChildren();
    take.addEventListener("change", () => {
      if (take === this.#take) this.#draw();
    });
    this.#draw();
  }

  #seek(seconds) {
    this.player.seek(seconds);
    this.#drawPosition();
  }

  #draw() {
    const take = this.#take;
    if (take === null) return;
    const { player } = this;
    write(byId("state"), text(this.#state()));
    const resume = byId("resume");
    resume.textContent = text(player.playing ? "pause" : player.atEnd ? "replay" : "resume");
    resume.disabled = player.length === 0;
    const facts = take.facts;
    const told = {
      "first-audio": take.firstSoundMs === null ? "–" : text("milliseconds", { value: number(take.firstSoundMs, 0) }),
      ratio: facts?.audio_seconds ? number(facts.compute_seconds / facts.audio_seconds, 2) : "–",
      "seed-used": take.seed === null ? "–" : String(take.seed),
      finish: facts?.finish_reason ? text(`finish_${facts.finish_reason}`) : "–",
    };
    for (const [id, words] of Object.entries(told)) byId(id).textContent = words;
    byId("download").disabled = byId("format").disabled = take.state !== "done";
    this.#drawParts(facts);
    this.#drawPosition();
    if (player.playing && !this.#frame) this.#follow();
  }

  #state() {
    const { player } = this;
    const { state } = this.#take;
    if (state === "speaking" && player.playing && !player.flowing && player.position > 0) return "stateBuffering";
    if (state === "failed" && player.length === 0) return "stateRefused";
    return state === "done" && player.playing ? "statePlaying" : STATES[state];
  }

  #drawParts(facts) {
    const many = facts !== null && facts.parts > 1;
    byId("parts-box").hidden = !many;
    if (!many) return;
    const finished = facts.state === "finished";
    const progress = byId("parts-progress");
    progress.max = facts.parts;
    progress.value = finished ? facts.parts : facts.part;
    byId("parts-told").textContent = finished
      ? text("partsSpoken", { parts: facts.parts })
      : text("partOf", { part: facts.part + 1, parts: facts.parts });
    const list = byId("parts");
    for (let i = list.children.length; i < facts.part_starts.length; i++) {
      const start = facts.part_starts[i];
      const play = make("button", { type: "button", textContent: String(i + 1), onclick: () => this.player.play(start) });
      list.append(make("li", {}, play));
    }
    [...list.children].forEach((item, i) => {
      item.firstChild.setAttribute("aria-label", text("playPart", { part: i + 1 }));
    });
  }

  #drawPosition() {
    const { player } = this;
    const slider = byId("position");
    slider.max = String(player.seconds);
    slider.value = String(player.position);
    const told = `${number(player.position, 1)} / ${text("seconds", { value: number(player.seconds, 1) })}`;
    slider.setAttribute("aria-valuetext", told);
    write(byId("clock"), told);
    this.waveform.showPosition();
    this.#markPart();
  }

  #markPart() {
    const starts = this.#take?.facts?.part_starts ?? [];
    const heard = starts.findLastIndex((start) => this.player.position >= start);
    const marked = byId("parts").querySelector("[aria-current]");
    const current = byId("parts").children[heard]?.firstChild ?? null;
    if (current === marked) return;
    marked?.removeAttribute("aria-current");
    current?.setAttribute("aria-current", "true");
  }

  #follow() {
    // With a frame, so that nothing is drawn for a tab that nobody sees; and not with every one.
    this.#frame = requestAnimationFrame((now) => {
      this.#frame = 0;
      if (now - this.#followed > FOLLOW_MS) {
        this.#followed = now;
        this.#drawPosition();
      }
      if (this.player.playing) this.#follow();
    });
  }

  async #download() {
    const take = this.#take;
    const format = byId("format").value;
    const fields = [byId("download"), byId("format")];
    for (const field of fields) field.disabled = true;
    say(byId("take-error"), "");
    byId("state").textContent = text("downloading", { format });
    try {
      const sound = await rendered({ ...take.request, seed: take.seed }, format);
      const address = URL.createObjectURL(sound);
      make("a", { href: address, download: `speech-${take.seed}.${format}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (error) {
      say(byId("take-error"), error.message);
    } finally {
      this.#draw();
    }
  }
}
