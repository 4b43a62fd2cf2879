/** The page: signed out it asks who you are, signed in it is the chat. */

import { io } from "/static/vendor/socket.io.esm.min.js";
import { Client, Session } from "./client.js";
import { Chat } from "./ui/chat.js";
import { explain, language } from "./ui/i18n.js";
import { signIn } from "./ui/sign-in.js";

const session = new Session();
let shown = null;

/** Show what belongs to the user who is signed in now. */
function show() {
  const userId = session.user?.id ?? null;
  if (shown?.userId === userId) return;
  const end = shown?.client?.state;
  shown?.chat?.close();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  if (userId === null) {
    shown = { userId };
    const page = signIn(session, end?.code ? explain(end) : "");
    document.title = "Tertulia";
    document.body.replaceChildren(page);
    page.querySelector("input").focus();
    return;
  }
  const client = new Client({ io, session });
  const chat = new Chat(client, session);
  shown = { userId, chat, client };
  document.body.replaceChildren(chat.element);
  client.start();
}

document.documentElement.lang = language;
session.addEventListener("change", show);
show();
