// The page: asks, shows, stops, remembers. Everything that comes from the service is set as text.

import { Answer } from "./answer.js";
import { ServiceError, call, key, readiness } from "./api.js";
import { installHistory, remember } from "./history.js";
import { installKey } from "./key.js";
import { installOptions, offerThresholds, requests } from "./options.js";
import { follow, newRun } from "./run.js";
import { installTheme } from "./theme.js";
import { BANDS, announcement } from "./words.js";

const $ = (id) => document.getElementById(id);
const AGAIN_MS = 5000;
let running = null; // the AbortController of what runs
let isKnown = false; // model and probe were told
let declined = null; // the key with which the service was left unasked: the dialog was closed
let timer = 0;
let standing = ""; // what is said while all is well

async function ask(question) {
  if (running || !question.trim()) return;
  running = new AbortController();
  const controller = running;
  setBusy(true);
  $("live").textContent = "";
  const runs = [];
  const work = requests(question).map(({ title, body, threshold, asked }) => {
    const run = newRun(title, asked, threshold);
    runs.push(run);
    return { run, body, answer: new Answer(run) };
  });
  show(work.map(({ answer }) => answer));
  try {
    await Promise.all(work.map(({ run, body, answer }) => follow(run, body, controller.signal, (from) => answer.update(from))));
  } finally {
    running = null;
    setBusy(false);
  }
  $("live").textContent = runs.map(announcement).join(" ");
  remember(question, runs);
  const probe = runs.at(-1).guard?.probe;
  if (probe && `${probe.name}@${probe.version}` !== $("probe").textContent) isKnown = false; // it was switched
  checkReady();
}

function show(answers) {
  $("empty").hidden = true;
  $("answers").classList.toggle("two", answers.length > 1);
  $("answers").replaceChildren(...answers.map((answer) => answer.root));
}

function setBusy(isBusy) {
  $("send").disabled = isBusy;
  $("stop").disabled = !isBusy;
  $("answers").setAttribute("aria-busy", isBusy);
}

function choose(entry) {
  if (running) return;
  $("question").value = entry.question;
  show(entry.runs.map((run) => new Answer(run)));
}

async function checkReady() {
  clearTimeout(timer);
  const { status, reasons } = await readiness();
  $("ready").textContent = status.replace("_", " ");
  $("ready").dataset.state = status;
  notice(status === "ready" ? standing : `Not ready: ${(reasons.join("; ") || status).replace(/\.$/, "")}. Asked again every ${AGAIN_MS / 1000} seconds.`);
  if (status !== "ready") timer = setTimeout(checkReady, AGAIN_MS);
  else if (!isKnown && key.get() !== declined) await tellServed();
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
}

async function tellServed() {
  isKnown = true;
  try {
    const version = await call("version");
    const { probes } = await call("probes");
    const active = probes.find((probe) => probe.state === "active");
    $("model").textContent = version.model;
    $("model").title = `${version.engine}, ${version.dtype}, ${version.device}`;
    $("version").textContent = version.version;
    standing = version.engine === "fake" ? "The fake engine answers: its text and its risks are made up." : "";
    notice(standing);
    if (!active) return;
    $("probe").textContent = `${active.name}@${active.version}`;
    $("probe").title = `AUROC ${active.auroc ?? "not measured"}, calibration error ${active.calibration_error ?? "not measured"}`;
    offerThresholds(active);
  } catch (error) {
    isKnown = false;
    if (error.status === 401) declined = key.get();
    const isSaid = error instanceof ServiceError;
    if (!isSaid) console.error(error);
    notice(isSaid ? `${error.message} ${error.fix}` : "What the service says of itself cannot be read. Reload the page.");
    if (error.status !== 401) timer = setTimeout(checkReady, AGAIN_MS);
  }
}

function installForm() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("question").value);
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("form").requestSubmit();
  });
  $("stop").addEventListener("click", () => running?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("key-dialog").open) running?.abort();
  });
  for (const button of $("examples").children) {
    button.addEventListener("click", () => {
      $("question").value = button.textContent;
      $("question").focus(); // the examples go away
      $("form").requestSubmit();
    });
  }
}

function installLegend() {
  $("legend").replaceChildren(...BANDS.map((end, at) => {
    const row = document.createElement("li");
    row.className = `risk-${at}`;
    row.textContent = `${Math.round((BANDS[at - 1] ?? 0) * 100)}–${Math.round(end * 100)}`;
    return row;
  }));
}

installForm(); // first: nothing that fails below may take it away
installTheme();
installLegend();
installKey(() => {
  declined = null;
  isKnown = false; // another key may be shown other things
  checkReady();
});
installOptions();
installHistory(choose);
checkReady();
