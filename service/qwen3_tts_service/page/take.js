// One speech: asked for, streamed into the player, and followed by what the server tells of it.
import { ask, ApiError } from "./api.js";
import { text } from "./language.js";

const LOOK_MS = 400;

/**
 * Events: "change" whenever something below has changed.
 * `state` is asking, speaking, done, stopped or failed; `facts` is what GET /v1/audio/speech/{id} tells.
 */
export class Take extends EventTarget {
  #stopping = new AbortController();
  #id = null;

  constructor(request) {
    super();
    this.request = request;
    this.state = "asking";
    this.seed = null;
    this.firstSoundMs = null;
    this.facts = null;
  }

  /** Speak into `player`. Never throws for being stopped; throws ApiError. */
  async run(player) {
    const asked = performance.now();
    try {
      const answer = await ask("v1/audio/speech", {
        method: "POST",
        json: { ...this.request, response_format: "pcm" },
        signal: this.#stopping.signal,
      });
      this.#id = answer.headers.get("X-Request-Id");
      this.seed = Number(answer.headers.get("X-Seed"));
      await this.#receive(answer.body.getReader(), player, asked);
      if (player.length === 0) throw new ApiError(text("emptyAnswer"), 0);
      await this.#look();
      this.#become("done");
    } catch (error) {
      this.#become(error.name === "AbortError" ? "stopped" : "failed");
      if (error.name !== "AbortError") throw error;
    } finally {
      player.finish();
    }
  }

  /** Hang up: the server ends its work. */
  stop() {
    this.#stopping.abort();
  }

  async #receive(reader, player, asked) {
    const watch = setInterval(() => this.#look(), LOOK_MS);
    let half = new Uint8Array(0);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        // A chunk may end in the middle of a sample.
        const bytes = new Uint8Array(half.length + value.length);
        bytes.set(half);
        bytes.set(value, half.length);
        const whole = bytes.length - (bytes.length % 2);
        half = bytes.slice(whole);
        if (!whole) continue;
        this.firstSoundMs ??= performance.now() - asked;
        player.append(new Int16Array(bytes.buffer, 0, whole / 2));
        if (this.state === "asking") this.#become("speaking");
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(text("brokeOff"), 0);
    } finally {
      clearInterval(watch);
    }
  }

  async #look() {
    try {
      const answer = await ask(`v1/audio/speech/${this.#id}`, { signal: this.#stopping.signal });
      this.facts = await answer.json();
      this.dispatchEvent(new Event("change"));
    } catch {
      // The sound matters; what is told of it can come with the next look.
    }
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}

/** The same speech in another format, whole: its seed is given. */
export async function rendered(request, format) {
  const answer = await ask("v1/audio/speech", {
    method: "POST",
    json: { ...request, response_format: format, stream: false },
  });
  return answer.blob();
}
