/** One's own name and picture. */

import { field, openDialog } from "./dialog.js";
import { h } from "./dom.js";
import { t } from "./i18n.js";

export function editProfile(client) {
  const { display_name: name, avatar_url: url } = client.me;
  const submit = (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.target));
    attempt(async () => {
      await client.request("PATCH", "/api/me", { ...fields, avatar_url: fields.avatar_url || null });
      dialog.close();
    });
  };
  const named = { name: "display_name", value: name, required: true, maxlength: 64, autocomplete: "name" };
  const pictured = { name: "avatar_url", value: url, type: "url", maxlength: 2048 };
  const { dialog, attempt } = openDialog(t("profile"), h("form", { onsubmit: submit },
    field(t("display_name"), named),
    // The page's policy shows no picture from elsewhere.
    field(t("picture"), { ...pictured, placeholder: "https://", pattern: "https://.*" }),
    h("button", { class: "primary wide" }, t("save"))));
  dialog.querySelector("input").select();
}
