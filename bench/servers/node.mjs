// Socket.IO on Node as it comes, with the check of a token and one room. As a node of a cluster
// BENCH_ADAPTER is "streams" or "pubsub", BENCH_REDIS a URL, and BENCH_RECOVERY "1" for connection
// state recovery.

import { createSecretKey } from "node:crypto";
import { createServer } from "node:http";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const [NAMESPACE, ROOM, EVENT] = ["/bench", "bench", "say"];
const { BENCH_SECRET, BENCH_ADAPTER, BENCH_REDIS, BENCH_RECOVERY } = process.env;
// With a string the library tries it as a public key each time first, which takes half a millisecond.
const SECRET = createSecretKey(Buffer.from(BENCH_SECRET));
const http = createServer();
const io = new Server(http, {
  adapter: BENCH_ADAPTER && (await makeAdapter()),
  connectionStateRecovery: BENCH_RECOVERY && { skipMiddlewares: false },
});
const namespace = io.of(NAMESPACE);

namespace.use((socket, next) => {
  try {
    const claims = jwt.verify(socket.handshake.auth.token, SECRET, { algorithms: ["HS256"] });
    socket.data.user = claims.sub;
    next();
  } catch {
    next(new Error("refused"));
  }
});

namespace.on("connection", (socket) => {
  socket.join(ROOM);
  socket.on(EVENT, (data) => namespace.to(ROOM).emit(EVENT, data));
});

http.listen(0, "127.0.0.1", () => console.log(http.address().port));

async function makeAdapter() {
  const { createClient } = await import("redis");
  const client = await createClient({ url: BENCH_REDIS }).connect();
  if (BENCH_ADAPTER === "streams") {
    return (await import("@socket.io/redis-streams-adapter")).createAdapter(client);
  }
  return (await import("@socket.io/redis-adapter")).createAdapter(client, await client.duplicate().connect());
}
