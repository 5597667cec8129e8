// Sound that is played while it arrives: samples are kept, and scheduled a little ahead of the ear.

export const RATE = 24000;
/** Seconds between the decision to play and the sound; seconds that are handed to the browser ahead of the ear; and
 * what has to be there before sound goes on that ran dry, so that it does not stutter. */
const LEAD = 0.06;
const AHEAD = 15;
const REFILL = 0.5;
const PEAK_SAMPLES = 480;

/**
 * Plays one take at a time. Events: "change" when it begins, pauses, waits or ends; "sound" when samples came, or are gone.
 * `position` and `seconds` are in seconds of the take.
 */
export class Player extends EventTarget {
  #context = null;
  #samples = new Int16Array(RATE * 30);
  #sources = new Set();
  #next = 0; // the first sample that is not scheduled
  #anchor = 0; // when sample 0 would sound, on the context's clock
  #timer = 0;
  #wanted = 0;

  constructor() {
    super();
    this.length = 0;
    this.complete = false;
    this.playing = false;
    /** Whether sound is scheduled: false while it waits for more. */
    this.flowing = false;
    /** Loudest sample of every 20 ms, 0 to 1. */
    this.peaks = [];
  }

  get seconds() {
    return this.length / RATE;
  }

  get position() {
    const scheduled = this.#next / RATE;
    if (!this.flowing) return scheduled;
    return Math.max(this.#from, Math.min(scheduled, this.#context.currentTime - this.#anchor));
  }

  #from = 0;

  /** Begin an empty take. Called in a click, which is when browsers allow sound. */
  begin() {
    this.#context ??= new AudioContext({ sampleRate: RATE });
    this.#context.resume();
    this.#silence();
    this.length = this.#next = this.#wanted = 0;
    this.peaks = [];
    this.complete = false;
    this.dispatchEvent(new Event("sound"));
    this.#start();
  }

  /** Take samples: signed 16 bit. */
  append(samples) {
    const needed = this.length + samples.length;
    if (needed > this.#samples.length) {
      const larger = new Int16Array(Math.max(needed, 2 * this.#samples.length));
      larger.set(this.#samples.subarray(0, this.length));
      this.#samples = larger;
    }
    this.#samples.set(samples, this.length);
    this.#addPeaks(needed);
    this.length = needed;
    this.#pump();
    this.dispatchEvent(new Event("sound"));
  }

  /** No more samples come. */
  finish() {
    this.complete = true;
    this.#pump();
  }

  /** All samples so far. */
  samples() {
    return this.#samples.slice(0, this.length);
  }

  /** Whether all of it was listened to. */
  get atEnd() {
    return this.complete && this.length > 0 && this.position >= this.seconds - 0.01;
  }

  /** Go to `seconds`, and on from there where it plays. */
  seek(seconds) {
    if (this.playing) this.play(seconds);
    else this.#next = this.#sampleAt(seconds);
  }

  /** Go on from `seconds`; from the beginning where they are at the end. */
  play(seconds = this.position) {
    this.#context.resume();
    this.#silence();
    this.#next = this.#sampleAt(seconds);
    if (this.atEnd) this.#next = 0;
    this.#wanted = 0;
    this.#start();
  }

  pause() {
    const position = this.position;
    this.#silence();
    this.#next = Math.round(position * RATE);
    this.dispatchEvent(new Event("change"));
  }

  #sampleAt(seconds) {
    return Math.max(0, Math.min(this.length, Math.round(seconds * RATE)));
  }

  #start() {
    this.playing = true;
    this.#timer = setInterval(() => this.#pump(), 100);
    this.#pump();
    this.dispatchEvent(new Event("change"));
  }

  #silence() {
    clearInterval(this.#timer);
    for (const source of this.#sources) source.stop();
    this.#sources.clear();
    this.playing = this.flowing = false;
  }

  #pump() {
    if (!this.playing) return;
    const now = this.#context.currentTime;
    if (this.flowing && this.#anchor + this.#next / RATE < now) this.#ranDry();
    if (!this.playing) return;
    if (!this.flowing) {
      const there = this.length - this.#next;
      if (there === 0 ? !this.complete : there < this.#wanted && !this.complete) return;
      this.#from = this.#next / RATE;
      this.#anchor = now + LEAD - this.#from;
      this.flowing = true;
      this.dispatchEvent(new Event("change"));
    }
    while (this.#next < this.length && this.#anchor + this.#next / RATE < now + AHEAD) this.#schedule();
  }

  #ranDry() {
    this.flowing = false;
    if (this.complete && this.#next === this.length) {
      this.#silence();
    } else if (this.#next === this.length) {
      this.#wanted = REFILL * RATE;
    }
    this.dispatchEvent(new Event("change"));
  }

  #schedule() {
    const end = Math.min(this.length, this.#next + RATE);
    const buffer = this.#context.createBuffer(1, end - this.#next, RATE);
    const channel = buffer.getChannelData(0);
    for (let i = 0; i < channel.length; i++) channel[i] = this.#samples[this.#next + i] / 32768;
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.onended = () => this.#sources.delete(source);
    source.start(this.#anchor + this.#next / RATE);
    this.#sources.add(source);
    this.#next = end;
  }

  #addPeaks(end) {
    for (let i = this.length; i < end; i++) {
      const bin = Math.floor(i / PEAK_SAMPLES);
      const level = Math.abs(this.#samples[i]) / 32768;
      if (bin === this.peaks.length) this.peaks.push(level);
      else if (level > this.peaks[bin]) this.peaks[bin] = level;
    }
  }
}
