// One request as a plain object that grows with its events, and can be kept in the history. Renders nothing.

import { ServiceError, envelopeError, events } from "./api.js";

const WITHHELD = ["blocked", "abstained"];
const UNJUDGED = "The service ended the answer without judging it.";

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
    run.state = isStopped ? "aborted" : "error";
    run.guard = null; // a judgement whose answer did not end is none
    run.spans = [];
    if (!isStopped) run.error = pack(readable(error));
    changed(0);
  }
}

// `span` events are left out: the guard has all spans again, and painting each anew freezes long answers.
function apply(run, { name, data }) {
  if (name === "start") {
    run.id = data.id;
    run.state = "streaming";
  } else if (name === "token") {
    run.tokens.push(pick(data));
  } else if (name === "guard") {
    run.guard = { ...data, tokens: null };
    run.finish = data.finish_reason;
    run.tokens = (data.tokens ?? run.tokens).map(pick);
    run.spans = (data.spans ?? []).map((span) => ({ ...span, text: span.text && safe(span.text) }));
    if (isWithheld(run)) withhold(run);
  } else if (name === "done") {
    if (!run.guard) throw new ServiceError(UNJUDGED, { fix: "Do not rely on it; ask again." });
    run.text = safe(data.choices[0].text);
    run.state = "done";
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

function pick({ i, text, logprob, entropy, logit, residual, risk, is_answer, explain }) {
  return { i, text: safe(text ?? ""), logprob, entropy, logit, residual, risk, is_answer, explain };
}

// What turns the reading direction would show a text that the model did not write; U+FFFD stands for it, as in the CLI.
const safe = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

// An answer that this page cannot read must end as an error, too: else the form waits for ever.
function readable(error) {
  if (error instanceof ServiceError) return error;
  console.error(error);
  return new ServiceError("The answer is not in the form that this page reads.", { fix: "Reload the page, then ask again." });
}

function pack({ message, code, requestId, details, fix }) {
  return { message, code, requestId, details, fix };
}
