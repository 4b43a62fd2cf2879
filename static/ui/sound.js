/** The sound on receiving a message, made here once for all tabs; a switch that is remembered. */

import { SafeStorage, browserStorage } from "../client/storage.js";

const STORED_AS = "tertulia.sound";
// All tabs hear of a message within this time.
const MADE_FOR_MS = 3_000;
const storage = new SafeStorage(browserStorage());
let audio = null;
let lookAway = () => {};

export function isSoundOn() {
  return storage.get(STORED_AS) !== "off";
}

export function setSound(isOn) {
  storage.set(STORED_AS, isOn ? "on" : "off");
  if (isOn && mayMake()) play();
}

/** Let the other tabs know which room is looked at here; null: none. */
export function lookAt(roomId) {
  lookAway();
  if (roomId === null) return;
  const away = new Promise((resolve) => (lookAway = resolve));
  navigator.locks?.request(lookedAt(roomId), { mode: "shared" }, () => away).catch(() => {});
}

/** Make it for a message, unless that is looked at in a tab or another tab makes it. */
export async function announce({ id, room_id: roomId }) {
  if (!mayMake()) return;
  try {
    const { held } = await navigator.locks.query();
    if (held.some(({ name }) => name === lookedAt(roomId))) return;
    await navigator.locks.request(`tertulia.sound.${id}`, { ifAvailable: true }, (lock) => {
      if (lock) play();
      return lock && new Promise((made) => setTimeout(made, MADE_FOR_MS));
    });
  } catch {
    // Without https a tab knows of no other one.
    play();
  }
}

/** Browsers allow no sound before the first click. */
function mayMake() {
  return isSoundOn() && navigator.userActivation?.hasBeenActive === true;
}

function lookedAt(roomId) {
  return `tertulia.looked-at.${roomId}`;
}

/** Two short tones. */
function play() {
  audio ??= new AudioContext();
  const start = audio.currentTime;
  [[660, 0], [880, 0.09]].forEach(([frequency, delay]) => {
    const tone = audio.createOscillator();
    const volume = audio.createGain();
    tone.frequency.value = frequency;
    volume.gain.setValueAtTime(0.08, start + delay);
    volume.gain.exponentialRampToValueAtTime(0.001, start + delay + 0.18);
    tone.connect(volume).connect(audio.destination);
    tone.start(start + delay);
    tone.stop(start + delay + 0.2);
  });
}
