// What a run says in words. Not scored is never a number: null stays null up to the screen.

export const BANDS = [0.2, 0.4, 0.6, 0.8, 1];
export const NONE = "not scored";
const PARTIAL = " Some tokens outside the answer were not scored.";

export const band = (risk) => (typeof risk === "number" ? BANDS.findIndex((end) => risk < end || end === 1) : null);
export const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits).replace("-", "−") : NONE);
export const riskText = (risk) => number(risk, 3);

const say = (kind, badge, words, fix = "") => ({ kind, badge, words, fix });

// {kind, badge, words, fix}: kind chooses the look.
export function verdict(run) {
  const { state, guard } = run;
  if (state === "waiting") return say("waiting", "waiting", "Waiting for the first token.");
  if (state === "error") return brokenOff(run);
  if (state === "aborted") {
    return say("aborted", "stopped by you", "You stopped it. What stands here was not judged as an answer.");
  }
  if (!guard) {
    const words = run.tokens.length ? "The answer is still coming; it is judged when it is whole." : "Nothing has left the guard yet.";
    return say("streaming", "answering", words);
  }
  return acted(run) ?? judged(run);
}

function brokenOff({ error, tokens }) {
  const rest = tokens.length ? " The text above is incomplete or was not judged: do not rely on it." : "";
  const details = (error.details ?? []).map((one) => ` ${one}.`).join("");
  const where = [error.code, error.requestId].filter(Boolean).join(", ");
  return say("error", "error", `${error.message}${where ? ` (${where})` : ""}${details}`, `${error.fix}${rest}`.trim());
}

// Where the policy did something, that is the first thing to say.
function acted({ guard, finish }) {
  const part = guard.status === "partial" ? PARTIAL : "";
  const compared = `risk ${riskText(guard.risk)}, threshold ${riskText(guard.threshold)}`;
  const over = isOver(guard.risk, guard.threshold) ? " That is still at or over the threshold." : "";
  switch (guard.action) {
    case "blocked":
      return say("blocked", "blocked", `The service withheld the text: ${compared}.`, "Nothing of it is kept in this page.");
    case "abstained":
      return say("abstained", "replaced", `The service answered with its abstention instead: ${compared}.`, "The risk is that of the text that was replaced.");
    case "stopped":
      return say("stopped", "stopped by the guard", `The service ended the answer where its running risk crossed the threshold: ${compared}.${part}`);
    case "suppressed":
      return say("suppressed", "suppressed", `Answered again with alpha ${guard.suppressed?.alpha}; this is the second answer: ${twoRisks(guard)}, threshold ${riskText(guard.threshold)}.${over}${part}`);
    case "flagged":
      return say("flagged", "flagged", `Flagged: ${compared}.${guard.suppressed ? ` A second answer was no better: ${twoRisks(guard)}.` : ""}${part}`);
    default:
      return finish === "error" ? say("failed", "failed", "The generation ended in an error.") : null;
  }
}

function twoRisks({ suppressed }) {
  return `risk ${riskText(suppressed.baseline_risk)} before, ${riskText(suppressed.risk)} with alpha ${suppressed.alpha}`;
}

function judged({ guard }) {
  const { status, risk, threshold } = guard;
  switch (status) {
    case "no_answer":
      return say("no_answer", "no claim found", "Nothing in this text is a factual claim that the guard could judge, so there is no risk.", "That is neither safe nor unsafe. Locator “response” judges all tokens.");
    case "failed":
      return say("failed", NONE, "A token of the answer could not be scored, so there is no risk.", "Treat it as unguarded; the service's log says why.");
    case "disabled":
      return say("disabled", "guard off", "Policy “off”: nothing was scored.", "Choose “annotate” to see the risk.");
    case "scored":
    case "partial": {
      if (typeof risk !== "number" || typeof threshold !== "number") break;
      const part = status === "partial" ? PARTIAL : "";
      const compared = `risk ${riskText(risk)}, threshold ${riskText(threshold)}.`;
      return risk >= threshold
        ? say("over", "over threshold", `At or over the threshold: ${compared}${part}`)
        : say("under", status === "partial" ? "partly scored" : "under threshold", `Under the threshold: ${compared}${part}`);
    }
  }
  return say("failed", NONE, `The service sent no risk that this page understands (status ${status}).`, "Treat it as unguarded; this page and the service may be of two versions.");
}

export function warnings({ guard, finish }) {
  const found = [];
  if (guard?.out_of_domain) {
    found.push("Out of domain: the signals lie outside of those that the risk was calibrated on. Do not rely on the number.");
  }
  if (guard && guard.alpha !== 1 && guard.status !== "disabled") {
    found.push(`Alpha ${guard.alpha} is experimental: the risk was calibrated at alpha 1.`);
  }
  if (finish === "length") found.push("Cut at max tokens.");
  return found;
}

// One sentence for screen readers, when all is said.
export function announcement(run) {
  const { badge, words, fix } = verdict(run);
  return [`${run.title}: ${badge}.`, words, fix, ...warnings(run)].filter(Boolean).join(" ");
}

export const isOver = (risk, threshold) => typeof risk === "number" && typeof threshold === "number" && risk >= threshold;
