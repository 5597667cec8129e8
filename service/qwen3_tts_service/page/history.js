// What was spoken in this browser, kept in its IndexedDB.

const NAME = "qwen3-tts";
const STORES = ["takes", "sounds"];
/** What is kept at most; the oldest make room. A minute of sound has 3 MB. */
const MOST = 50;
const MOST_BYTES = 200e6;

/** The kept takes. Every method rejects where the browser keeps nothing for this page. */
export class History {
  #opened = null;

  /** Keep a take, `{ when, request, voiceName, seed, firstSoundMs, facts }`, and its samples. */
  async add(take, samples) {
    const [takes, sounds] = await this.#stores("readwrite");
    await done(sounds.put(samples, await done(takes.add({ ...take, bytes: samples.byteLength }))));
    let bytes = 0;
    (await done(takes.getAll())).reverse().forEach((kept, number) => {
      bytes += kept.bytes;
      // The newest is kept, however long it is.
      if (number === 0 || (number < MOST && bytes <= MOST_BYTES)) return;
      takes.delete(kept.id);
      sounds.delete(kept.id);
    });
  }

  /** All of them without their sound, the newest first. */
  async all() {
    const [takes] = await this.#stores("readonly");
    return (await done(takes.getAll())).reverse();
  }

  /** The samples of one. */
  async sound(id) {
    const [, sounds] = await this.#stores("readonly");
    return done(sounds.get(id));
  }

  async remove(id) {
    await Promise.all((await this.#stores("readwrite")).map((store) => done(store.delete(id))));
  }

  async clear() {
    await Promise.all((await this.#stores("readwrite")).map((store) => done(store.clear())));
  }

  async #stores(mode) {
    this.#opened ??= open();
    const transaction = (await this.#opened).transaction(STORES, mode);
    return STORES.map((name) => transaction.objectStore(name));
  }
}

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("takes", { keyPath: "id", autoIncrement: true });
    request.result.createObjectStore("sounds");
  };
  return done(request);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
