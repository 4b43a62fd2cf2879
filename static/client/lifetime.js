/** Waits that end together: with a connection, or with a client. */

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;

export class Lifetime {
  #waits = new Set();
  #reason = null;

  get isOver() {
    return this.#reason !== null;
  }

  /** Throws when it is over. */
  check() {
    if (this.isOver) throw this.#reason;
  }

  /** Resolves after `ms`; rejects as soon as the lifetime is over. */
  pause(ms) {
    return new Promise((resolve, reject) => {
      if (this.isOver) {
        reject(this.#reason);
        return;
      }
      const wait = { reject };
      wait.timer = setTimeout(() => {
        this.#waits.delete(wait);
        resolve();
      }, ms);
      this.#waits.add(wait);
    });
  }

  /** Stop every wait; `reason` is what they reject with. */
  end(reason) {
    this.#reason ??= reason;
    for (const { timer, reject } of this.#waits) {
      clearTimeout(timer);
      reject(this.#reason);
    }
    this.#waits.clear();
  }
}

/** How long to wait after so many failures: longer each time, up to half a minute, and not the same for all clients. */
export function growing(failures) {
  return between(0.5, 1) * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** failures);
}

export function between(least, most) {
  return least + Math.random() * (most - least);
}
