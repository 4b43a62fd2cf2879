/** The sound on receiving a message, made here; a switch that is remembered. */

const STORED_AS = "tertulia.sound";
let audio = null;

export function isSoundOn() {
  return localStorage.getItem(STORED_AS) !== "off";
}

export function setSound(isOn) {
  localStorage.setItem(STORED_AS, isOn ? "on" : "off");
  if (isOn) beep();
}

/** Two short tones; silent until the browser allows sound, which it does after the first click. */
export function beep() {
  if (!isSoundOn() || !navigator.userActivation?.hasBeenActive) return;
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
