// The waveform, drawn by wavesurfer.js from peaks that we count: it draws, and plays nothing.
import WaveSurfer from "./vendor/wavesurfer.esm.js";

// The content security policy knows the style sheet that goes with this height.
const HEIGHT = 72;
const MOST_BARS = 400;
const REDRAW_MS = 120;

export class Waveform {
  #surfer;
  #drawn = 0;
  #stale = false;
  #timer = 0;

  /** `onSeek` hears where in the take somebody clicked, 0 to 1. */
  constructor(container, player, onSeek) {
    this.player = player;
    this.#surfer = WaveSurfer.create({
      container,
      height: HEIGHT,
      barWidth: 2,
      barGap: 1,
      barRadius: 2,
      cursorWidth: 2,
      hideScrollbar: true,
      ...colours(),
    });
    this.#surfer.on("click", onSeek);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#surfer.setOptions(colours()));
    player.addEventListener("sound", () => this.#soon());
  }

  /** Show how far it was listened to. */
  showPosition() {
    if (this.#surfer.getDuration()) this.#surfer.setTime(this.player.position);
  }

  #soon() {
    this.#stale = true;
    const wait = this.#drawn + REDRAW_MS - performance.now();
    if (!this.#timer) this.#timer = setTimeout(() => this.#draw(), Math.max(0, wait));
  }

  async #draw() {
    this.#stale = false;
    const { peaks, seconds } = this.player;
    if (peaks.length) await this.#surfer.load("", [bars(peaks)], seconds);
    else this.#surfer.empty();
    this.showPosition();
    this.#drawn = performance.now();
    this.#timer = 0;
    if (this.#stale) this.#soon();
  }
}

/** At most so many bars, each as high as the loudest of what it stands for. */
function bars(peaks) {
  const each = Math.ceil(peaks.length / MOST_BARS);
  const drawn = [];
  for (let i = 0; i < peaks.length; i += each) drawn.push(Math.max(...peaks.slice(i, i + each)));
  return drawn;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { waveColor: colour("--wave"), progressColor: colour("--accent"), cursorColor: colour("--accent") };
}
