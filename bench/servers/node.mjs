// Socket.IO on Node as it comes, with the check of a token and one room.

import { createSecretKey } from "node:crypto";
import { createServer } from "node:http";
import jwt from "jsonwebtoken";
import { Server } from "socket.io";

const [NAMESPACE, ROOM, EVENT] = ["/bench", "bench", "say"];
// With a string the library tries it as a public key each time first, which takes half a millisecond.
const SECRET = createSecretKey(Buffer.from(process.env.BENCH_SECRET));
const http = createServer();
const namespace = new Server(http).of(NAMESPACE);

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
