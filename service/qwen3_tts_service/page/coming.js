// The bar that is seen until the server can speak: weights arrive, then the model is loaded.
import { byId, write } from "./elements.js";
import { number, text } from "./language.js";

/** Show how far it is, from an answer of /ready; nothing where nothing is on its way. */
export function drawComing({ status, download, loading }) {
  let shown = null;
  if (status === "downloading" && download) shown = arriving(download);
  if ((status === "loading" || status === "warming") && loading) shown = starting(loading);
  byId("coming").hidden = shown === null;
  if (shown === null) return;
  const bar = byId("coming-bar");
  // Without a value it says that nobody knows how long.
  if (shown.share === null) bar.removeAttribute("value");
  else bar.value = shown.share;
  write(byId("coming-title"), text(shown.title));
  write(byId("coming-told"), shown.told.filter(Boolean).join(" · "));
}

function arriving({ state, bytes, total_bytes: total, bytes_per_second: rate, remaining_seconds: left }) {
  if (state === "verifying") return { title: "comingChecked", share: null, told: [size(total, total)] };
  if (!total) return { title: "comingWeights", share: null, told: [] };
  const told = [text("sizeOf", { done: size(bytes, total), total: size(total, total) })];
  if (left === null) told.push(text("stalled"));
  else told.push(text("rate", { size: size(rate, rate) }), text("timeLeft", { time: duration(left) }));
  return { title: "comingWeights", share: bytes / total, told };
}

function starting({ total_bytes: total, elapsed_seconds: elapsed, remaining_seconds: left }) {
  const told = [total ? size(total, total) : "", text("elapsed", { time: duration(elapsed) })];
  // It takes about as long as the last time; when that is over, nobody knows.
  if (!left) return { title: "comingModel", share: null, told };
  told.push(text("timeLeft", { time: duration(left) }));
  return { title: "comingModel", share: elapsed / (elapsed + left), told };
}

/** Bytes in the unit that suits `largest`. */
function size(bytes, largest) {
  return largest >= 1e9 ? `${number(bytes / 1e9, 2)} GB` : `${number(bytes / 1e6, 1)} MB`;
}

function duration(seconds) {
  if (seconds < 100) return text("seconds", { value: number(seconds, 0) });
  if (seconds < 6000) return text("minutes", { value: number(seconds / 60, 0) });
  return text("hours", { value: number(seconds / 3600, 1) });
}
