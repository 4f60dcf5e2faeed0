// Beside an answer: the numbers and neurons of one token, the neurons of the whole answer, the spans.

import { number, riskText } from "./words.js";

const make = (name, text, className = "") => Object.assign(document.createElement(name), { textContent: text, className });

const TERMS = ["Token", "Risk", "Log-probability", "Entropy (nats)", "Logit of the neurons", "Logit of the residual", "In a claim"];

export function showToken(list, token, hint) {
  const said = token && [
    `${token.i + 1}: ${JSON.stringify(token.text)}`,
    ...[token.risk, token.logprob, token.entropy, token.logit, token.residual].map((value) => number(value)),
    { true: "yes", false: "no" }[token.is_answer] ?? "not known yet",
  ];
  const rows = TERMS.map((term, at) => [term, said?.[at] ?? (at ? "" : hint)]);
  list.replaceChildren(...rows.map(([term, value]) => {
    const row = document.createElement("div");
    row.append(make("dt", term), make("dd", value));
    return row;
  }));
}

// Of the token that is pointed at; else of the whole answer.
export function showNeurons(section, run, token) {
  const neurons = token?.explain ?? run.guard?.explain;
  const [hint, list] = [section.querySelector(".hint"), section.querySelector("ol")];
  hint.textContent = token?.explain
    ? `Of token ${token.i + 1} alone: weight times CETT.`
    : neurons?.length
    ? "Of the whole answer: weight times mean CETT over the claim."
    : run.guard ? "None were reported for this answer." : "Known once the answer is judged.";
  const most = Math.max(...(neurons ?? []).map((one) => Math.abs(one.contribution)), 1e-9);
  list.replaceChildren(...(neurons ?? []).map((one) => {
    const row = document.createElement("li");
    const bar = make("span", "", `bar ${one.contribution >= 0 ? "up" : "down"}`);
    bar.style.setProperty("--share", Math.abs(one.contribution) / most);
    bar.setAttribute("aria-hidden", "true");
    const kind = one.weight > 0 ? "H-neuron" : "against";
    row.title = `weight ${number(one.weight)}: ${one.weight > 0 ? "speaks for a hallucination (an H-neuron)" : "speaks against one"}`;
    row.append(make("span", `layer ${one.layer}, no. ${one.neuron}`), make("small", kind, "kind"), bar,
      make("span", `${one.contribution > 0 ? "+" : ""}${number(one.contribution, 2)}`, "figure"));
    return row;
  }));
}

export function showSpans(list, spans) {
  list.replaceChildren(...spans.map((span) => {
    const row = document.createElement("li");
    const text = make("span", span.text ?? "withheld", "span-text");
    text.dir = "auto";
    row.append(text, make("span", `risk ${riskText(span.risk)}`, "figure"));
    return row;
  }));
}

export function figures(run) {
  const parts = [];
  if (run.usage) parts.push(`${run.usage.completion_tokens} tokens`);
  if (run.timing) parts.push(`${(run.timing.prefill_s + run.timing.decode_s).toFixed(2)} s`);
  if (run.asked.seed !== null) parts.push(`seed ${run.asked.seed}`);
  if (run.guard) parts.push(`${run.guard.probe.name}@${run.guard.probe.version}`);
  if (run.id) parts.push(run.id);
  return parts.join(" · ");
}
