// What was asked before: in memory, in this browser's localStorage only while the box is ticked.

import { read, write } from "./store.js";
import { riskText, verdict } from "./words.js";

const STORE = "hguard.history";
const VERSION = 1; // of the form of what is kept; another one is left unread
const LIMIT = 30;
const $ = (id) => document.getElementById(id);

let entries = []; // newest first: {question, at, runs}
let onChoose = () => {};

export function installHistory(choose) {
  onChoose = choose;
  $("keep").checked = read("localStorage", STORE) !== null;
  entries = load();
  $("keep").addEventListener("change", () => {
    if ($("keep").checked) save();
    else forget();
  });
  $("clear").addEventListener("click", () => {
    entries = [];
    forget();
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

const forget = () => write("localStorage", STORE, null);

// What is kept, as far as it can be read.
function load() {
  try {
    const kept = JSON.parse(read("localStorage", STORE));
    return kept.version === VERSION ? kept.entries.filter(isEntry) : [];
  } catch {
    return [];
  }
}

function isEntry(entry) {
  return typeof entry?.question === "string" && Array.isArray(entry.runs) && entry.runs.length > 0;
}

// Never forgets: the box may be unticked in this tab alone. What another tab has kept meanwhile stays.
function save() {
  if (!$("keep").checked) return;
  const others = load().filter((one) => !entries.some((own) => own.at === one.at && own.question === one.question));
  let kept = [...entries, ...others].sort((one, other) => other.at - one.at).slice(0, LIMIT);
  while (!write("localStorage", STORE, JSON.stringify({ version: VERSION, entries: kept }))) {
    if (!kept.length) { // the browser keeps nothing at all
      $("keep").checked = false;
      return;
    }
    kept = kept.slice(0, Math.floor(kept.length / 2)); // its room is full: the newest matter most
  }
}

// Of all entries; one that cannot be shown, because another version kept it, goes.
function show() {
  const rows = [];
  entries = entries.filter((entry) => attempt(() => rows.push(makeRow(entry))));
  $("clear").disabled = !entries.length;
  if (!rows.length) rows.push(Object.assign(document.createElement("li"), { className: "hint", textContent: "Nothing yet." }));
  $("history").replaceChildren(...rows);
}

function attempt(step) {
  try {
    step();
    return true;
  } catch {
    return false;
  }
}

function makeRow(entry) {
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
  button.addEventListener("click", () => {
    if (attempt(() => onChoose(entry))) return;
    entries = entries.filter((one) => one !== entry);
    show();
  });
  row.append(button);
  return row;
}
