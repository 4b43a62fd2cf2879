// A TCP proxy before the server, whose connections can be cut and refused.

import { connect, createServer } from "node:net";

/** With `breaksWebSockets` as some companies have them: connections that ask for a websocket are ended. */
export async function startProxy(url, { breaksWebSockets = false } = {}) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  let isOpen = true;
  const keep = (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => {});
  };
  const server = createServer((near) => {
    keep(near);
    if (!isOpen) {
      near.destroy();
      return;
    }
    const far = connect({ host: hostname, port });
    keep(far);
    if (breaksWebSockets) {
      near.on("data", (data) => {
        if (data.includes("transport=websocket")) near.destroy();
      });
    }
    near.pipe(far).pipe(near);
    near.on("close", () => far.destroy());
    far.on("close", () => near.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const proxy = {
    url: `http://127.0.0.1:${server.address().port}`,
    cut() {
      for (const socket of sockets) socket.destroy();
    },
    /** Refuse what comes, and end what is there. */
    shut() {
      isOpen = false;
      proxy.cut();
    },
    open() {
      isOpen = true;
    },
    close() {
      proxy.shut();
      server.close();
    },
  };
  return proxy;
}
