// The npm client by remote control. Commands come on standard input and notes go to standard output, one JSON
// object a line. {id, do, ...} is answered {id, result} or {id, error}; what happens is noted as {on, ...}.
// Bytes are {type: "Buffer", data: [...]} both ways, as Node writes them.

import { createInterface } from "node:readline";
import { io } from "socket.io-client";

let socket;

function revived(_, value) {
  return value?.type === "Buffer" ? Buffer.from(value.data) : value;
}

function write(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function freshToken(url, tokens) {
  const response = await fetch(`${url}/api/auth/refresh`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ refresh_token: tokens.refresh }),
  });
  const signed = await response.json();
  tokens.refresh = signed.refresh_token;
  return signed.access_token;
}

function noteEngine(engine) {
  write({ on: "engine", transport: engine.transport.name });
  engine.once("upgrade", (transport) => write({ on: "upgrade", transport: transport.name }));
}

const commands = {
  // With `refresh` the auth is a function that gets a new token for every connection.
  async open({ url, auth, refresh, options }) {
    const tokens = { refresh };
    const fresh = async (give) => give({ ...auth, token: await freshToken(url, tokens) });
    socket = io(`${url}/chat`, { auth: refresh ? fresh : auth, autoConnect: false, ...options });
    socket.on("connect", () => write({ on: "connect", id: socket.id, recovered: Boolean(socket.recovered) }));
    socket.on("disconnect", (reason, details) => {
      write({ on: "disconnect", reason, code: details?.context?.code, active: socket.active });
    });
    socket.on("connect_error", ({ message, data }) => {
      write({ on: "connect_error", message, data, active: socket.active });
    });
    socket.onAny((event, ...args) => write({ on: "event", event, args }));
    socket.io.on("open", () => noteEngine(socket.io.engine));
    socket.io.on("reconnect_attempt", (attempt) => write({ on: "reconnect_attempt", attempt }));
    socket.connect();
  },
  call: ({ event, payload }) => socket.timeout(15_000).emitWithAck(event, payload ?? {}),
  emit: async ({ event, payload }) => void socket.emit(event, payload),
  // All in one tick; the answers in the order in which they came.
  burst: ({ event, payloads }) =>
    new Promise((done) => {
      const answers = [];
      for (const payload of payloads) {
        socket.emit(event, payload, (answer) => answers.push(answer) === payloads.length && done(answers));
      }
    }),
  auth: async ({ auth }) => void (socket.auth = auth),
  connect: async () => void socket.connect(),
  state: async () => ({ active: socket.active, connected: socket.connected, id: socket.id }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: name, ...rest } = JSON.parse(line, revived);
  commands[name](rest).then(
    (result) => write({ id, result }),
    (error) => write({ id, error: String(error) }),
  );
}
socket?.disconnect();
