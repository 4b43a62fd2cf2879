// Juan's part of a conversation that uses every event there is, with the client from npm. Ana's part is
// conversation.py. They find each other, tell each other in the chat when to go on, and do the same things in turn.
// In three terminals:
//
//   TERTULIA_AUTH__ACCESS_TTL_S=65 make run     # short-lived tokens, so that auth_expiring comes soon
//
//   npm install --no-save --no-package-lock --prefix examples socket.io-client
//   node examples/conversation.mjs              # [http://127.0.0.1:8080]
//
//   .venv/bin/python examples/conversation.py   # [http://127.0.0.1:8080]
//
// At the end both ask you to stop the server with Ctrl-C, for the last event, server_draining. The exit code is 0
// when every event was sent and received, else 1, and the missing ones are named.

import { randomUUID } from "node:crypto";
import { io } from "socket.io-client";

const URL = process.argv[2] ?? "http://127.0.0.1:8080";
const ME = "juan.example";
const PEER = "ana.example";
const PATIENCE_MS = 1000 * (process.argv[3] ?? 60); // how long to wait for any one thing

const CLIENT_EVENTS = `chat_message edit_message delete_message react_message read_message typing join_room leave_room
  create_room open_direct add_member remove_member set_role sync history auth_refresh`.split(/\s+/);
const SERVER_EVENTS = `chat_message message_edited message_deleted message_reaction message_read typing_status
  user_status user_updated room_joined room_left room_updated member_joined member_left auth_expiring session_ended
  event_failed server_draining`.split(/\s+/);

const sent = new Set();
const received = []; // [event, payload]
const messages = new Map(); // by id, each with the greatest rev seen
const revs = new Map(); // room id -> the last rev seen: what to name in sync
const waiting = new Set();
let isRenewed = false;
let session; // {user, access_token, expires_in, refresh_token}

// ---- Signing in, by HTTP

async function http(method, path, body, token = session?.access_token) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(URL + path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error.message), answer.error);
  return answer;
}

async function signIn() {
  const credentials = { username: ME, password: `${ME} has a password` };
  try {
    return await http("POST", "/api/auth/register", credentials);
  } catch (error) {
    if (error.code !== "conflict") throw error;
    return http("POST", "/api/auth/login", credentials); // the name is taken: by an earlier run
  }
}

async function findUser(username) {
  for (let tries = 0; tries < PATIENCE_MS / 500; tries += 1) {
    const { users } = await http("GET", `/api/users?query=${username}`);
    const found = users.find((user) => user.username === username);
    if (found) return found;
    await new Promise((done) => setTimeout(done, 500));
  }
  throw new Error(`${username} never came: start the other program too`);
}

// ---- The connection

// The function is called for every connection, so that a reconnection has the newest token.
const chat = io(`${URL}/chat`, { autoConnect: false, auth: (give) => give({ token: session.access_token }) });

chat.on("connect", () => sync(Object.fromEntries(revs)).catch(fail)); // what happened while we were away
chat.on("room_joined", ({ room_id }) => sync({ [room_id]: null }).catch(fail)); // what was said before we came
chat.on("auth_expiring", () => renew().catch(fail));
chat.on("connect_error", (error) => console.log(`<- connect_error ${error.message} ${JSON.stringify(error.data)}`));
chat.onAny(note);

function note(event, payload) {
  console.log(`<- ${event} ${JSON.stringify(payload).slice(0, 150)}`);
  received.push([event, payload]);
  if (payload.message?.id) keep(payload.message);
  else if (payload.rev) revs.set(payload.room_id, Math.max(payload.rev, revs.get(payload.room_id) ?? 0));
  wake();
}

// An event may overtake the answer of a sync: of two states of a message the greater rev holds.
function keep(message) {
  if (message.rev > (messages.get(message.id)?.rev ?? 0)) messages.set(message.id, message);
  revs.set(message.room_id, Math.max(message.rev, revs.get(message.room_id) ?? 0));
}

function wake() {
  for (const check of waiting) check();
}

async function ask(event, payload) {
  const shown = event === "auth_refresh" ? "a token" : JSON.stringify(payload);
  console.log(`-> ${event} ${shown.slice(0, 150)}`);
  sent.add(event);
  const answer = await chat.timeout(10_000).emitWithAck(event, payload);
  if (!answer.ok) throw new Error(`${event}: ${answer.error.code}, ${answer.error.message}`);
  return answer.data;
}

async function sync(rooms) {
  const truncated = {};
  let cursor;
  do {
    const page = await ask("sync", { rooms, cursor });
    for (const each of page.rooms) {
      each.changes.forEach(keep);
      revs.set(each.room.id, Math.max(each.rev, revs.get(each.room.id) ?? 0));
      if (each.truncated) truncated[each.room.id] = each.rev;
    }
    page.left.forEach((roomId) => revs.delete(roomId));
    cursor = page.next ?? undefined;
  } while (cursor);
  wake();
  if (Object.keys(truncated).length > 0) await sync(truncated);
}

async function renew() {
  session = await http("POST", "/api/auth/refresh", { refresh_token: session.refresh_token });
  await ask("auth_refresh", { token: session.access_token });
  isRenewed = true;
  wake();
}

// Resolves with the first truthy result of `find`, tried again whenever something has come.
function until(what, find, patienceMs = PATIENCE_MS) {
  return new Promise((done, failed) => {
    const timer = setTimeout(() => {
      waiting.delete(check);
      failed(new Error(`waited in vain for ${what}`));
    }, patienceMs);
    const check = () => {
      const found = find();
      if (!found) return;
      clearTimeout(timer);
      waiting.delete(check);
      done(found);
    };
    waiting.add(check);
    check();
  });
}

const heard = (event, matches = () => true, patienceMs = PATIENCE_MS) =>
  until(event, () => received.find(([name, payload]) => name === event && matches(payload)), patienceMs);

const said = (beginning, patienceMs) =>
  until(`"${beginning}"`, () => [...messages.values()].find(
    ({ sender, content }) => sender.username === PEER && content.startsWith(beginning)), patienceMs);

// A retry with the same client_msg_id does not post twice.
async function say(room_id, content, more = {}) {
  return (await ask("chat_message", { room_id, content, client_msg_id: randomUUID(), ...more })).message;
}

// ---- The conversation: whoever leads begins each step, the other one follows

async function meet(peer) {
  const { room } = await ask("open_direct", { user_id: peer.id });
  for (let tries = 0; tries < PATIENCE_MS / 1000; tries += 1) {
    await say(room.id, "Are you there?");
    if (await said("Here I am.", 1000).catch(() => null)) return room;
  }
  throw new Error(`${PEER} does not answer`);
}

async function lead(direct, peer) {
  await ask("typing", { room_id: direct.id, is_typing: true });
  const question = await say(direct.id, "Shall we go out for tapas?");
  const reply = await said("Gladly!");
  await ask("read_message", { room_id: direct.id, message_id: reply.id });
  await ask("react_message", { room_id: direct.id, message_id: reply.id, reaction_type: "love", action: "add" });
  await ask("edit_message", { room_id: direct.id, message_id: question.id, content: "Shall we go out tonight?" });
  const slip = await say(direct.id, "wrong window");
  await ask("delete_message", { room_id: direct.id, message_id: slip.id });

  const { room: group } = await ask("create_room", { kind: "group", name: "Tapas", client_msg_id: randomUUID() });
  const member = { room_id: group.id, user_id: peer.id };
  await ask("add_member", member);
  await ask("set_role", { ...member, role: "admin" });
  await say(group.id, "Which bar?");
  await said("The one in the plaza.");
  await ask("remove_member", member);

  const { room: plaza } = await ask("create_room", { kind: "public", name: "Plaza", client_msg_id: randomUUID() });
  await say(plaza.id, "I have a table.");
  await say(direct.id, `Come to ${plaza.id}`);
  await heard("member_left", (left) => left.room_id === plaza.id && left.user.id === peer.id);

  await http("PATCH", "/api/me", { display_name: "Juan Pérez" }); // user_updated
  chat.emit("chat_message", { room_id: direct.id, content: "" }); // without an ack its error is an event
  await heard("event_failed");

  await say(direct.id, "Take a break.");
  await heard("user_status", (told) => told.user_id === peer.id && told.status === "offline");
  await say(direct.id, "You missed this.");
  await said("I did not.");
  await say(direct.id, "Now you.");
}

async function follow(direct, peer) {
  const question = await said("Shall we go out for tapas?");
  await ask("read_message", { room_id: direct.id, message_id: question.id });
  await say(direct.id, "Gladly!", { reply_to: question.id });
  for (const event of ["typing_status", "message_edited", "message_deleted", "message_reaction"]) await heard(event);

  const { room_id } = await said("Which bar?"); // in a room that we were added to
  await say(room_id, "The one in the plaza.");
  await heard("room_left", (left) => left.room_id === room_id && left.reason === "removed");

  const plaza = { room_id: (await said("Come to ")).content.slice("Come to ".length) };
  await ask("join_room", plaza);
  const { messages: earlier } = await ask("history", { ...plaza, limit: 10 });
  await say(plaza.room_id, `You said "${earlier[0].content}", but I see nobody.`);
  await ask("leave_room", plaza);
  await heard("user_updated", ({ user }) => user.id === peer.id);

  await said("Take a break.");
  chat.disconnect();
  while ((await http("GET", "/api/me")).user.status === "online") await new Promise((done) => setTimeout(done, 250));
  chat.connect();
  await said("You missed this."); // by sync, or if it comes later by its event
  await say(direct.id, "I did not.");
  await said("Now you.");
}

// A second device with a login of its own: logging that out ends its connection, and no other.
async function useAPhone() {
  const login = await http("POST", "/api/auth/login", { username: ME, password: `${ME} has a password` });
  const phone = io(`${URL}/chat`, { forceNew: true, auth: { token: login.access_token } });
  phone.on("session_ended", (payload) => note("session_ended", payload));
  phone.on("connect", () => http("POST", "/api/auth/logout", {}, login.access_token).catch(fail));
  await heard("session_ended");
}

function missing() {
  const names = new Set(received.map(([event]) => event));
  return [
    ...CLIENT_EVENTS.filter((event) => !sent.has(event)).map((event) => `-> ${event}`),
    ...SERVER_EVENTS.filter((event) => !names.has(event)).map((event) => `<- ${event}`),
  ];
}

function fail(error) {
  console.log(`failed: ${error.message}`);
  finish(1);
}

function finish(code) {
  chat.disconnect();
  const names = missing();
  console.log(names.length > 0 ? `missing: ${names.join(", ")}` : "every event was sent and received");
  process.exit(names.length > 0 ? 1 : code);
}

async function main() {
  session = await signIn();
  chat.connect();
  const peer = await findUser(PEER);
  const direct = await meet(peer);
  await lead(direct, peer);
  await follow(direct, peer);
  await useAPhone();
  await heard("auth_expiring");
  await until("the answer of auth_refresh", () => isRenewed);
  console.log("Now stop the server: Ctrl-C in its terminal");
  await heard("server_draining");
  finish(0);
}

main().catch(fail);
