// Colours: the system's, or what was chosen; and whether numbers stand under the tokens. Kept in this browser.

import { read, write } from "./store.js";

const STORE = "hguard.look";
const $ = (id) => document.getElementById(id);

export function installTheme() {
  let look = {};
  try {
    look = JSON.parse(read("localStorage", STORE)) ?? {};
  } catch { /* of another version */ }
  $("theme").value = ["light", "dark"].includes(look.theme) ? look.theme : "auto";
  $("numbers").checked = look.numbers ?? true;
  const apply = () => {
    document.documentElement.dataset.theme = $("theme").value;
    document.documentElement.dataset.numbers = $("numbers").checked;
  };
  for (const id of ["theme", "numbers"]) {
    $(id).addEventListener("change", () => {
      apply();
      write("localStorage", STORE, JSON.stringify({ theme: $("theme").value, numbers: $("numbers").checked }));
    });
  }
  apply();
}
