/** What is kept in this browser, or only in memory where the browser keeps nothing (blocked, full, not a browser). */

export class SafeStorage {
  #storage;
  #memory = new Map();

  /** `storage`: with `getItem`, `setItem` and `removeItem` as `localStorage` has them; undefined: memory alone. */
  constructor(storage) {
    this.#storage = storage;
  }

  get(key) {
    if (this.#memory.has(key)) return this.#memory.get(key);
    return this.#try(() => this.#storage.getItem(key)) ?? null;
  }

  /** Whether it will be there after a reload, and is there for other tabs. */
  set(key, value) {
    this.#memory.delete(key);
    const isKept = this.#try(() => {
      this.#storage.setItem(key, value);
      return true;
    });
    if (!isKept) this.#memory.set(key, value);
    return isKept === true;
  }

  remove(key) {
    this.#memory.delete(key);
    this.#try(() => this.#storage.removeItem(key));
  }

  /** The keys that begin with `prefix` and are kept. */
  keys(prefix) {
    const all = this.#try(() => Array.from({ length: this.#storage.length }, (_, index) => this.#storage.key(index)));
    return (all ?? []).filter((key) => key.startsWith(prefix));
  }

  #try(work) {
    try {
      return this.#storage === undefined ? undefined : work();
    } catch {
      return undefined;
    }
  }
}

/** The browser's own storage, where one may use it: the look alone can throw. */
export function browserStorage() {
  try {
    return globalThis.localStorage;
  } catch {
    return undefined;
  }
}
