// What was spoken in this browser, kept in its IndexedDB.

const NAME = "qwen3-tts";
const STORE = "takes";
/** Takes that are kept; the oldest make room. */
const MOST = 50;

/** The kept takes. Every method rejects where the browser keeps nothing for this page. */
export class History {
  #opened = null;

  /** Keep a take: `{ when, request, voiceName, seed, firstSoundMs, facts, samples }`. */
  async add(take) {
    const store = await this.#store("readwrite");
    await done(store.add(take));
    const keys = await done(store.getAllKeys());
    for (const key of keys.slice(0, Math.max(0, keys.length - MOST))) store.delete(key);
  }

  /** All of them, the newest first. */
  async all() {
    const store = await this.#store("readonly");
    return (await done(store.getAll())).reverse();
  }

  async remove(id) {
    await done((await this.#store("readwrite")).delete(id));
  }

  async clear() {
    await done((await this.#store("readwrite")).clear());
  }

  async #store(mode) {
    this.#opened ??= open();
    return (await this.#opened).transaction(STORE, mode).objectStore(STORE);
  }
}

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
  return done(request);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
