// One request as a plain object that grows with its events, and can be kept in the history. Renders nothing.

import { ServiceError, envelopeError, events } from "./api.js";

const WITHHELD = ["blocked", "abstained"];

export function newRun(title, asked, threshold) {
  return {
    title, asked, threshold, state: "waiting", id: "", tokens: [], spans: [], guard: null, text: "", finish: "",
    error: null, usage: null, timing: null,
  };
}

export const isWithheld = (run) => WITHHELD.includes(run.guard?.action);

// Run it; `changed(from)` is called after each event, `from` being the first token that is new or different.
export async function follow(run, body, signal, changed) {
  try {
    for await (const event of events("generate", body, signal)) {
      apply(run, event);
      changed(event.name === "token" ? run.tokens.length - 1 : 0);
    }
  } catch (error) {
    const isStopped = signal.aborted;
    if (!isStopped && !(error instanceof ServiceError)) throw error;
    run.state = isStopped ? "aborted" : "error";
    run.guard = null; // a judgement whose answer did not end is none
    run.spans = [];
    if (!isStopped) run.error = pack(error);
    changed(0);
  }
}

function apply(run, { name, data }) {
  if (name === "start") {
    run.id = data.id;
    run.state = "streaming";
  } else if (name === "token") {
    run.tokens.push(pick(data));
  } else if (name === "span") {
    run.spans.push(data);
  } else if (name === "guard") {
    run.guard = { ...data, tokens: null };
    run.finish = data.finish_reason;
    run.tokens = (data.tokens ?? run.tokens).map(pick);
    run.spans = data.spans ?? run.spans;
    if (isWithheld(run)) withhold(run);
  } else if (name === "done") {
    run.state = "done";
    run.text = data.choices[0].text;
    run.usage = data.usage;
    run.timing = data.timing;
  } else if (name === "error") {
    throw envelopeError(data, 200, null);
  }
}

// What left before the guard decided must not stay either.
function withhold(run) {
  run.tokens = [];
  run.spans = [];
}

function pick({ i, text, logprob, entropy, logit, residual, risk, is_answer }) {
  return { i, text: text ?? "", logprob, entropy, logit, residual, risk, is_answer };
}

function pack({ message, code, requestId, details, fix }) {
  return { message, code, requestId, details, fix };
}
