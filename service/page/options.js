// The form's options: what they say, as request bodies. Which policies hold a stream is the service's rule.

import { number } from "./words.js";

const $ = (id) => document.getElementById(id);
const HELD = { block: "needs hold", abstain: "needs hold and the whole answer", suppress: "held" };
const HINTS = {
  annotate: "Scores only; the threshold is shown and nothing acts on it.",
  flag: "Scores, and says flagged from the threshold on.",
  block: "From the threshold on the text is withheld.",
  abstain: "From the threshold on another text stands in its place.",
  stop: "The answer ends where the running risk crosses the threshold.",
  suppress: "From the threshold on it answers again with the H-neurons scaled down, and keeps the lower risk. Experimental.",
  off: "No scoring at all: no risk and no colours.",
};

let own = null; // the active probe's entry of GET /probes
let wantedMode = "immediate"; // what was chosen while it could be

export function installOptions() {
  $("options").open = matchMedia("(min-width: 60rem)").matches;
  $("mode").addEventListener("input", () => { wantedMode = $("mode").value; });
  $("options").addEventListener("input", show);
  show();
}

export function offerThresholds(probe) {
  own = probe;
  const [mine, last] = [$("threshold").options[0], $("threshold").lastElementChild];
  const chosen = $("threshold").value;
  mine.textContent = `own (${number(probe.threshold)})`;
  for (const old of $("threshold").querySelectorAll("[data-budget]")) old.remove();
  for (const { fpr, threshold } of probe.budgets ?? []) {
    const option = new Option(`fpr:${fpr} (${number(threshold)})`, `fpr:${fpr}`);
    option.dataset.budget = threshold;
    last.before(option);
  }
  $("threshold").value = chosen;
  if ($("threshold").selectedIndex < 0) $("threshold").value = ""; // the new probe has no such budget
  show();
}

// The threshold as far as the page knows it before the service has said it.
function knownThreshold() {
  const chosen = $("threshold").selectedOptions[0];
  if (chosen.value === "number") return optional("threshold-number") ?? own?.threshold ?? null;
  return chosen.value ? Number(chosen.dataset.budget) : (own?.threshold ?? null);
}

function show() {
  const policy = $("policy").value;
  $("threshold-number").disabled = $("threshold").value !== "number";
  $("mode").disabled = policy in HELD;
  $("mode").value = policy in HELD ? "hold" : wantedMode;
  $("policy-hint").textContent = HINTS[policy] + (policy in HELD ? ` Stream: ${HELD[policy]}.` : "");
  const alpha = Number($("alpha").value);
  $("alpha-value").textContent = alpha.toFixed(1);
  const known = knownThreshold();
  const said = [policy, known === null ? "" : `threshold ${number(known)}`, `${$("max-tokens").value || "no limit of"} tokens`];
  if (alpha !== 1) said.push(`alpha ${alpha} beside 1`);
  $("summary").textContent = said.filter(Boolean).join(" · ");
}

const optional = (id) => ($(id).value === "" ? null : Number($(id).value));

// [{title, body, threshold, asked}]: one, or with another alpha the baseline and it, under one seed.
export function requests(question) {
  const temperature = Number($("temperature").value);
  const drawn = temperature > 0 ? Math.floor(Math.random() * 2 ** 31) : null;
  const seed = optional("seed") ?? drawn;
  const [policy, chosen] = [$("policy").value, $("threshold").value];
  const threshold = chosen === "number" ? optional("threshold-number") : chosen || null;
  const build = (title, alpha) => ({
    title,
    threshold: knownThreshold(),
    asked: { question, seed, alpha },
    body: {
      prompt: question,
      stream: true,
      stream_mode: $("mode").value,
      sampling: { max_tokens: optional("max-tokens"), temperature, seed },
      guard: {
        policy, threshold, alpha, locator: $("locator").value, return_tokens: true, return_spans: true,
        explain: policy !== "off",
      },
    },
  });
  const alpha = Number($("alpha").value);
  if (alpha === 1) return [build("Answer", 1)];
  return [build("Baseline, alpha 1", 1), build(`${alpha < 1 ? "Suppressed" : "Amplified"}, alpha ${alpha}`, alpha)];
}
