// The microphone, as samples: nothing is compressed before the server hears it.
import { wav } from "./wav.js";

/** The server takes recordings of at most a minute, and the last block is heard before there is an end. */
const LONGEST_S = 59;

/** Whether browsers lend the microphone to this page at all: they want https, or this very machine. */
export function canRecord() {
  return isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

export class Recorder {
  #pieces = [];
  #newest = [];
  #length = 0;

  /** `onLevel` hears (seconds so far, loudness of the newest tenth of a second: 0 to 1, its loudest sample). */
  constructor(onLevel, onFull) {
    this.onLevel = onLevel;
    this.onFull = onFull;
  }

  /** Begin. Throws what the browser throws where the person, or the machine, has no microphone for us. */
  async start() {
    // What telephones do to a voice would become part of it.
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    this.context = new AudioContext();
    try {
      await this.context.audioWorklet.addModule(new URL("recorder_worklet.js", import.meta.url));
      this.node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
      this.node.port.onmessage = ({ data }) => this.#take(data);
      this.context.createMediaStreamSource(this.stream).connect(this.node);
    } catch (error) {
      await this.#letGo();
      throw error;
    }
  }

  /** End, and give the WAV file. */
  async stop() {
    await this.#letGo();
    return wav(this.#pieces, this.context.sampleRate);
  }

  get seconds() {
    return this.#length / this.context.sampleRate;
  }

  async #letGo() {
    for (const track of this.stream.getTracks()) track.stop();
    await this.context.close();
    // What still waits to be told of would be told after the end.
    if (this.node) this.node.port.onmessage = null;
  }

  #take(samples) {
    this.#pieces.push(samples);
    this.#length += samples.length;
    this.#newest.push(samples);
    if (this.#newest.length * samples.length < this.context.sampleRate / 10) return;
    let sum = 0;
    let peak = 0;
    for (const piece of this.#newest) {
      for (const sample of piece) {
        sum += sample * sample;
        peak = Math.max(peak, Math.abs(sample));
      }
    }
    this.onLevel(this.seconds, Math.sqrt(sum / (this.#newest.length * samples.length)), peak);
    this.#newest = [];
    if (this.seconds >= LONGEST_S) this.onFull();
  }
}
