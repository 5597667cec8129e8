// The corner that says how the server is: ready or why not, which model, on what, and how much it has to do.
import { ask } from "./api.js";
import { byId, write } from "./elements.js";
import { onLanguage, text } from "./language.js";

const LOOK_MS = 3000;
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
  setInterval(() => document.hidden || look(), LOOK_MS);
  document.addEventListener("visibilitychange", () => document.hidden || look());
  return look();
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
  // A proxy in between may answer with anything.
  const known = ["ready", "loading", "warming", "draining", "broken"].includes(status) ? status : "unreachable";
  const corner = byId("status");
  corner.dataset.status = known;
  write(byId("status-word"), text(known));
  write(byId("status-reason"), known === "ready" || known === "unreachable" ? "" : reason);
  write(byId("status-model"), [model, device].filter(Boolean).join(" · "));
  const sum = (name) => [told, ...more].reduce((total, each) => total + (each[name] ?? 0), 0);
  const counted = speaking !== undefined && known !== "unreachable";
  write(byId("status-queue"), counted ? text("queue", { speaking: sum("speaking"), waiting: sum("waiting") }) : "");
  byId("notice").hidden = !notice;
}
