// The tokens of one answer: coloured by risk, reachable by arrow keys (one tab stop), text nodes only.

import { NONE, band, isOver, riskText } from "./words.js";

export class TokenList {
  // `onPoint(token)` is called when a token is pointed at or focused.
  constructor(box, onPoint) {
    this.box = box;
    this.onPoint = onPoint;
    this.elements = [];
    this.tokens = [];
    this.at = 0;
    box.addEventListener("keydown", (event) => this.#move(event));
    for (const kind of ["pointerover", "focusin", "click"]) {
      box.addEventListener(kind, (event) => this.#point(event.target.closest("[data-i]")));
    }
  }

  // Show the tokens; those before `from` are as they were.
  show(tokens, spans, threshold, from) {
    this.tokens = tokens;
    for (const old of this.elements.splice(tokens.length)) old.parent.remove();
    for (let i = Math.min(from, this.elements.length); i < tokens.length; i++) {
      this.elements[i] ??= this.#make(i);
      paint(this.elements[i], tokens[i], spans, threshold, i);
    }
    if (this.at >= tokens.length) this.at = 0;
    this.#rove(this.at);
  }

  #make(i) {
    const parent = document.createElement("span");
    const element = document.createElement("span");
    const before = document.createTextNode("");
    const text = document.createTextNode("");
    element.setAttribute("role", "option");
    element.dataset.i = i;
    element.tabIndex = -1;
    element.append(text);
    parent.setAttribute("role", "presentation");
    parent.append(before, element);
    this.box.append(parent);
    return { parent, element, before, text };
  }

  #move(event) {
    const last = this.elements.length - 1;
    const next = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, ArrowDown: this.at + 1, ArrowUp: this.at - 1, Home: 0, End: last }[event.key];
    if (next === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (next < 0 || next > last) return;
    this.elements[next].element.focus();
  }

  #point(element) {
    if (!element) return;
    this.#rove(Number(element.dataset.i));
    for (const one of this.elements) one.element.ariaSelected = one.element === element;
    this.onPoint(this.tokens[this.at]);
  }

  #rove(to) {
    const [old, now] = [this.elements[this.at]?.element, this.elements[to]?.element];
    if (old) old.tabIndex = -1;
    if (now) now.tabIndex = 0;
    this.at = to;
  }
}

function paint({ element, before, text }, token, spans, threshold, i) {
  const word = token.text.trimStart();
  const isBlank = word === "";
  before.data = isBlank ? "" : token.text.slice(0, token.text.length - word.length);
  text.data = isBlank ? token.text : word;
  const shade = band(token.risk);
  const isSpan = spans.some((span) => span.token_start <= i && i < span.token_end);
  element.className = "token";
  element.classList.add(shade === null ? "risk-none" : `risk-${shade}`);
  element.classList.toggle("over", isOver(token.risk, threshold));
  element.classList.toggle("span", isSpan);
  element.classList.toggle("slim", !isBlank && word.length < 3);
  element.dataset.percent = shade === null ? "–" : Math.round(100 * token.risk);
  const risk = shade === null ? NONE : `risk ${riskText(token.risk)}`;
  element.setAttribute("aria-label", `${isBlank ? "blank" : word}, ${risk}${isSpan ? ", in the claim" : ""}`);
}
