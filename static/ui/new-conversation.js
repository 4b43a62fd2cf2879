/** Starting a conversation: with a person, in a group of one's own, or in a public room. */

import { countOf, roomAvatar, userAvatar } from "./avatar.js";
import { field, finder, openDialog } from "./dialog.js";
import { h, iconButton } from "./dom.js";
import { t } from "./i18n.js";

const TABS = ["people", "group", "public"];

/** `open` gets the id of the room; `first` is the tab to begin with. */
export function newConversation(client, open, first = "people") {
  const panel = h("div", { role: "tabpanel", id: "tab-panel" });
  const titles = { people: t("people"), group: t("group"), public: t("public_rooms") };
  const tabs = TABS.map((name) => h("button", {
    type: "button",
    role: "tab",
    id: `tab-${name}`,
    "aria-controls": "tab-panel",
    onclick: () => show(name),
    onkeydown: (event) => turn(event, name),
  }, titles[name]));
  const tabList = h("div", { role: "tablist", class: "tabs", "aria-label": t("new") }, tabs);
  const { dialog, attempt } = openDialog(t("new"), tabList, panel);
  const done = (work) => attempt(async () => {
    const room = await work();
    dialog.close();
    open(room.id);
  });
  const talkTo = (user) => done(() => client.openDirect(user.id));
  const join = (room) => done(() => client.join(room.id));
  const panels = {
    people: () => [peopleFinder(client, talkTo)],
    group: () => groupForm(client, done),
    public: () => [finder(t("find_public"), (query) => publicRooms(client, query, join), t("no_public"))],
  };
  const show = (name) => {
    for (const tab of tabs) {
      const isShown = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    panel.replaceChildren(...panels[name]());
  };
  const turn = ({ key }, name) => {
    const step = { ArrowRight: 1, ArrowLeft: TABS.length - 1 }[key];
    if (step === undefined) return;
    const next = TABS[(TABS.indexOf(name) + step) % TABS.length];
    show(next);
    tabs[TABS.indexOf(next)].focus();
  };
  show(first);
  panel.querySelector("input").focus();
}

/** A search for people; `choose` gets who was picked. */
export function peopleFinder(client, choose) {
  const nobody = t("no_people", { address: location.origin });
  return finder(t("find_person"), (query) => people(client, query, choose), nobody);
}

async function people(client, query, choose) {
  const { users } = await client.request("GET", `/api/users?limit=20&query=${encodeURIComponent(query)}`);
  const others = users.filter((user) => user.id !== client.me.id);
  return others.map((user) => ({
    key: user.id,
    version: JSON.stringify(user),
    render: () => personChoice(user, () => choose(user)),
  }));
}

async function publicRooms(client, query, choose) {
  const { rooms } = await client.request("GET", `/api/rooms?scope=public&limit=20&query=${encodeURIComponent(query)}`);
  return rooms.map((room) => ({
    key: room.id,
    version: JSON.stringify(room),
    render: () => choice(roomAvatar(room), room.name, countOf(room), () => choose(room)),
  }));
}

function personChoice(user, onclick) {
  return choice(userAvatar(user, user.status === "online"), user.display_name, `@${user.username}`, onclick);
}

function choice(picture, name, about, onclick) {
  return h("li", {}, h("button", { type: "button", class: "room", onclick }, picture,
    h("span", { class: "room-text" }, h("span", { class: "name" }, name), h("span", { class: "preview" }, about))));
}

function groupForm(client, done) {
  const chosen = new Map();
  const chips = h("div", { class: "chips" });
  const draw = () => chips.replaceChildren(...[...chosen.values()].map((user) =>
    h("span", { class: "chip" }, h("span", { class: "name" }, user.display_name),
      iconButton("close", t("remove_name", { name: user.display_name }), () => {
        chosen.delete(user.id);
        draw();
      }))));
  const choose = (user) => {
    chosen.set(user.id, user);
    draw();
    const search = people.querySelector("input");
    if (search.value === "") return;
    search.value = "";
    search.dispatchEvent(new Event("input"));
  };
  const people = peopleFinder(client, choose);
  const submit = (event) => {
    event.preventDefault();
    const { name, kind } = Object.fromEntries(new FormData(event.target));
    done(() => client.createRoom(kind === "on" ? "public" : "group", name, [...chosen.keys()]));
  };
  return [h("form", { onsubmit: submit },
    field(t("group_name"), { name: "name", required: true, maxlength: 100 }),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "kind" }), t("everyone")),
    h("p", { class: "label" }, t("group_people")), chips, people,
    h("button", { class: "primary wide" }, t("create")))];
}
