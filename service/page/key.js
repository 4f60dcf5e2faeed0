// The API key's dialog: asked for when the service says 401, one question for all calls that wait.

import { key } from "./api.js";

const $ = (id) => document.getElementById(id);
let waiting = null;

// `onKey()` is called when there is a new key.
export function installKey(onKey) {
  key.onMissing(askKey);
  const dialog = $("key-dialog");
  $("key-button").addEventListener("click", async () => {
    if (await askKey("An operator makes keys with python -m service.keys; this page needs one with the scope infer.")) onKey();
  });
  $("key-cancel").addEventListener("click", () => dialog.close("cancel"));
  $("key-forget").addEventListener("click", () => {
    key.set("");
    dialog.close("cancel");
  });
  $("key-form").addEventListener("submit", (event) => {
    const given = $("key").value.trim();
    if (/^[\x20-\x7e]*$/.test(given)) {
      key.set(given);
      return;
    }
    event.preventDefault(); // no header can carry it
    $("key-message").textContent = "That is no API key: keys have letters, digits and signs of ASCII only.";
  });
  showKey();
}

// The key once it is there, or null where none was given.
function askKey(message) {
  if (waiting) return waiting;
  const dialog = $("key-dialog");
  $("key-message").textContent = message;
  $("key").value = "";
  dialog.returnValue = "";
  waiting = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use" && key.get() !== "";
      $("key").value = "";
      waiting = null;
      showKey();
      resolve(given ? key.get() : null);
    }, { once: true });
  });
  dialog.showModal();
  return waiting;
}

function showKey() {
  $("key-button").textContent = key.get() ? "API key: set" : "API key";
}
