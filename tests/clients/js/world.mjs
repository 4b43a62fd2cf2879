// A client on the model of a server, in virtual time: the test decides when the server answers.

import { mock } from "node:test";
import { Client } from "../../../static/client.js";
import { FakeSocket, fakeSession, memoryStorage, settled } from "./fakes.mjs";
import { ME, Model } from "./model.mjs";

const DAY_MS = 24 * 3600 * 1000;

/** Timers and the clock stand still but for `pass`. */
export function stopTime() {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: DAY_MS });
}

/** A connected client of the model, whose questions wait until `serve`; events come at once. */
export async function started({ storage = memoryStorage(), rooms = ["a"], isLarge = false, hasFirst = true } = {}) {
  let socket;
  const io = (_, options) => (socket = new FakeSocket(options));
  const model = new Model((event, payload) => socket.connected && socket.deliver(event, payload));
  for (const id of rooms) model.addRoom(id, { isLarge });
  const client = new Client({ io, session: fakeSession(ME), storage });
  client.start();
  await settled();
  socket.accept();
  const world = { client, socket, model, room: model.rooms.get("a") };
  if (hasFirst) await serve(world);
  return world;
}

/** Answer all questions, and those that follow from the answers. */
export async function serve({ socket, model }) {
  await settled();
  while (socket.asked.length > 0) {
    const question = socket.asked.shift();
    const data = model.answer(question.event, question.payload);
    if (data === null) question.refuse("not_found");
    else question.answer(data);
    await settled();
  }
}

export async function reconnect(world, { recovered = false } = {}) {
  world.socket.drop();
  world.socket.open();
  await settled();
  world.socket.accept({ recovered });
  await settled();
}

export async function pass(ms) {
  for (let left = ms; left > 0; left -= 250) {
    mock.timers.tick(Math.min(250, left));
    await settled();
  }
}

/** The next question of this event, as soon as it is asked. */
export async function next({ socket }, event) {
  await settled();
  while (!socket.asked.some((each) => each.event === event)) await pass(250);
  return socket.take(event);
}

export const asked = ({ socket }, event) => socket.sent.filter((each) => each.event === event).map(({ payload }) => payload);
export const contents = ({ room }) => room.messages.map(({ content }) => content);
