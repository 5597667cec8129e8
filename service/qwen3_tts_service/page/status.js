// The corner that says how the server is: ready or why not, which model, on what, and how much it has to do.
import { drawComing } from "./coming.js";
import { byId, write } from "./elements.js";
import { onLanguage, text } from "./language.js";

const LOOK_MS = 3000;
// While somebody waits for it.
const LOOK_SOON_MS = 1000;
// What the server says of itself -> the text for it. A proxy in between may answer with anything.
const WORDS = {
  ready: "ready",
  loading: "loading",
  warming: "warming",
  draining: "draining",
  broken: "broken",
  downloading: "weightsArrive",
  download_failed: "weightsFailed",
  download_silent: "weightsSilent",
  no_weights: "weightsMissing",
};
let told = null;

/** Look every few seconds while the page is seen. `onReady` is called whenever the server has become ready. */
export function watchStatus(onReady) {
  onLanguage(draw);
  const look = async () => {
    const before = told?.status;
    told = await ready();
    draw();
    if (told.status === "ready" && before !== "ready") onReady();
  };
  const watch = async () => {
    if (told === null || !document.hidden) await look();
    setTimeout(watch, told.status === "ready" ? LOOK_MS : LOOK_SOON_MS);
  };
  document.addEventListener("visibilitychange", () => document.hidden || look());
  return watch();
}

async function ready() {
  try {
    // Not with `ask`: 503 is an answer here.
    return await (await fetch("ready")).json();
  } catch {
    return { status: "unreachable" };
  }
}

function draw() {
  if (told === null) return;
  const { status, reason, model, device, speaking, notice, more_models: more = [] } = told;
  const known = Object.hasOwn(WORDS, status) ? status : "unreachable";
  const corner = byId("status");
  corner.dataset.status = known;
  write(byId("status-word"), text(WORDS[known] ?? known));
  // What changes all the time is told beside the bar, where it is not announced each time.
  write(byId("status-reason"), ["ready", "unreachable", "downloading"].includes(known) ? "" : reason);
  drawComing(told);
  write(byId("status-model"), [model, device].filter(Boolean).join(" · "));
  const sum = (name) => [told, ...more].reduce((total, each) => total + (each[name] ?? 0), 0);
  const counted = speaking !== undefined && known !== "unreachable";
  write(byId("status-queue"), counted ? text("queue", { speaking: sum("speaking"), waiting: sum("waiting") }) : "");
  byId("notice").hidden = !notice;
}
