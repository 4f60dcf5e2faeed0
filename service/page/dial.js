// The dial: a half circle from 0 to 1 with the threshold as a mark. Null has a dashed arc and a word, no needle.

import { NONE, band, riskText } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const RADIUS = 50;
const HALF = Math.PI * RADIUS;

function shape(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

// From the left end, 0, over the top to the right end, 1.
const point = (share, radius) => [60 - radius * Math.cos(Math.PI * share), 58 - radius * Math.sin(Math.PI * share)];

export class Dial {
  constructor(parent) {
    const arc = `M10 58 A${RADIUS} ${RADIUS} 0 0 1 110 58`;
    const svg = shape("svg", { viewBox: "0 0 120 66", "aria-hidden": "true" }, parent);
    shape("path", { d: arc, class: "dial-track" }, svg);
    this.arc = shape("path", { d: arc, class: "dial-arc", "stroke-dasharray": `0 ${HALF}` }, svg);
    this.mark = shape("path", { class: "dial-mark" }, svg);
    this.value = parent.appendChild(Object.assign(document.createElement("strong"), { className: "dial-value" }));
    this.label = parent.appendChild(Object.assign(document.createElement("span"), { className: "dial-label" }));
    this.parent = parent;
  }

  show(risk, label, threshold) {
    const isScored = typeof risk === "number";
    this.parent.classList.toggle("unscored", !isScored);
    this.parent.dataset.band = isScored ? band(risk) : "none";
    this.arc.style.strokeDasharray = `${(isScored ? risk : 0) * HALF} ${HALF}`;
    this.value.textContent = isScored ? riskText(risk) : NONE;
    this.label.textContent = label;
    const isMarked = threshold > 0 && threshold < 1;
    this.mark.toggleAttribute("hidden", !isMarked);
    if (isMarked) {
      const [[x1, y1], [x2, y2]] = [point(threshold, RADIUS - 9), point(threshold, RADIUS + 9)];
      this.mark.setAttribute("d", `M${x1} ${y1} L${x2} ${y2}`);
    }
  }
}
