// Puts the page together.
import { ask, events, keepKey } from "./api.js";
import { keyGiven } from "./dialogs.js";
import { byId, say } from "./elements.js";
import { HistoryView } from "./history_view.js";
import { onLanguage, switchLanguage, translate } from "./language.js";
import { FromDescription, FromRecording } from "./new_voice.js";
import { Speaking } from "./speaking.js";
import { watchStatus } from "./status.js";
import { Voices } from "./voices.js";

translate();

const speaking = new Speaking((take, samples) => history.add(take, samples));
const history = new HistoryView(
  ({ request, seed, firstSoundMs, facts }, samples) => {
    const take = Object.assign(new EventTarget(), { request, seed, firstSoundMs, facts, state: "done", stop() {} });
    speaking.replay(take, samples);
  },
  (request) => {
    speaking.fill(request);
    speaking.speak(request);
  },
);
const hear = (request) => speaking.speak(request);
const voices = new Voices(hear, offer);
const cloning = new FromRecording(offer);
const designing = new FromDescription(hear, offer);

/** Ask what there is to choose from, and show it everywhere. */
async function offer() {
  try {
    const [models, listed] = await Promise.all(["v1/models", "v1/audio/voices"].map(async (path) => (await ask(path)).json()));
    speaking.offer(models.data, listed.voices);
    voices.offer(listed.voices);
    cloning.offer(models.data);
    designing.offer(models.data);
    say(byId("voices-error"), "");
  } catch (error) {
    say(byId("voices-error"), error.message);
  }
}

events.addEventListener("keyneeded", async () => {
  const key = await keyGiven();
  if (key === null) return;
  keepKey(key);
  await offer();
});
onLanguage(offer);
byId("other-language").onclick = switchLanguage;
watchStatus(offer);
