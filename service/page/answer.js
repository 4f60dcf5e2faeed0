// One answer on the page: renders a run, whatever state it is in.

import { ServiceError, call } from "./api.js";
import { Dial } from "./dial.js";
import { figures, showNeurons, showSpans, showToken } from "./details.js";
import { isWithheld } from "./run.js";
import { TokenList } from "./tokens.js";
import { verdict, warnings } from "./words.js";

export class Answer {
  constructor(run) {
    this.run = run;
    const root = document.getElementById("answer-template").content.firstElementChild.cloneNode(true);
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.dial = new Dial(this.find(".dial"));
    this.tokens = new TokenList(this.find(".tokens"), (token) => this.#point(token));
    this.find(".title").textContent = run.title;
    this.find(".asked").textContent = run.asked.question;
    for (const button of root.querySelectorAll(".feedback button")) {
      button.addEventListener("click", () => this.#label(button));
    }
    this.#point(null);
    this.update(0);
  }

  // Show what is new; tokens before `from` are as they were.
  update(from) {
    const { run, find } = this;
    const { kind, badge, words, fix } = verdict(run);
    this.root.dataset.kind = find(".badge").dataset.kind = kind;
    find(".badge").textContent = badge;
    find(".words").textContent = words;
    find(".fix").textContent = fix;
    this.tokens.show(run.tokens, run.spans, run.guard?.threshold ?? run.threshold, from);
    this.#dial();
    if (run.state === "streaming" && !run.guard) return; // the rest waits for the end
    find(".warnings").replaceChildren(...warnings(run).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    find(".replaced").textContent = run.guard?.action === "abstained" ? run.text : "The text was withheld.";
    find(".replaced").hidden = !isWithheld(run);
    find(".plain").textContent = run.state === "done" && !isWithheld(run) ? run.text : "";
    find(".figures").textContent = figures(run);
    showSpans(find(".spans"), run.spans);
    this.#point(isWithheld(run) ? null : (run.tokens[this.pointed] ?? null));
    for (const button of this.root.querySelectorAll(".feedback button")) {
      button.disabled = run.state !== "done" || isWithheld(run);
    }
  }

  #dial() {
    const { guard, state, tokens, threshold } = this.run;
    if (guard) this.dial.show(guard.risk, guard.risk === null ? "no risk to show" : "risk of the answer", guard.threshold);
    else if (state === "streaming" && tokens.length) this.dial.show(tokens.at(-1).risk, `token ${tokens.length}, so far`, threshold);
    else this.dial.show(null, state === "streaming" || state === "waiting" ? "not judged yet" : "never judged", threshold);
  }

  #point(token) {
    this.pointed = token?.i;
    showToken(this.find(".numbers-list"), token, isWithheld(this.run) ? "withheld" : "point at one, or use the arrow keys");
    showNeurons(this.find(".neurons"), this.run, token);
  }

  async #label(button) {
    const state = this.find(".feedback-state");
    try {
      const kept = await call("feedback", { body: { id: this.run.id, label: button.value, choice: 0 } });
      for (const one of this.root.querySelectorAll(".feedback button")) one.ariaPressed = one === button;
      state.textContent = kept.replaced ? "Kept in place of the label before." : "Kept. Thank you.";
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      state.textContent = `${error.message} ${error.fix}`.trim();
    }
  }
}
