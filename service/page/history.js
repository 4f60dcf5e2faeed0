// What was asked before: in memory, in this browser's localStorage only while the box is ticked.

import { riskText, verdict } from "./words.js";

const STORE = "hguard.history";
const LIMIT = 30;
const $ = (id) => document.getElementById(id);

let entries = []; // newest first: {question, at, runs}
let onChoose = () => {};

export function installHistory(choose) {
  onChoose = choose;
  const kept = localStorage.getItem(STORE);
  $("keep").checked = kept !== null;
  try {
    entries = JSON.parse(kept ?? "[]");
  } catch {
    entries = [];
  }
  $("keep").addEventListener("change", save);
  $("clear").addEventListener("click", () => {
    entries = [];
    save();
    show();
  });
  show();
}

export function remember(question, runs) {
  entries = [{ question, at: Date.now(), runs }, ...entries].slice(0, LIMIT);
  save();
  show();
}

function save() {
  if (!$("keep").checked) {
    localStorage.removeItem(STORE);
    return;
  }
  try {
    localStorage.setItem(STORE, JSON.stringify(entries));
  } catch { // the browser's room is full: the newest matter most
    entries = entries.slice(0, Math.floor(entries.length / 2));
    if (entries.length) save();
  }
}

function show() {
  $("clear").disabled = !entries.length;
  const rows = entries.map((entry) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    const question = Object.assign(document.createElement("span"), { className: "history-question", textContent: entry.question });
    const said = entry.runs.map((run) => {
      const risk = run.guard?.risk;
      return typeof risk === "number" ? `${verdict(run).badge}, ${riskText(risk)}` : verdict(run).badge;
    });
    const state = Object.assign(document.createElement("small"), { textContent: said.join(" | ") });
    button.type = "button";
    button.append(question, state);
    button.addEventListener("click", () => onChoose(entry));
    row.append(button);
    return row;
  });
  if (!rows.length) rows.push(Object.assign(document.createElement("li"), { className: "hint", textContent: "Nothing yet." }));
  $("history").replaceChildren(...rows);
}
