// Text as people read it: markdown as clean HTML of the API, LaTeX drawn by KaTeX as MathML, think blocks folded; or raw.

import * as api from "./api.js";
import { h } from "./dom.js";

const TAGS = /(<think>[\s\S]*?(?:<\/think>|$)|<answer>[\s\S]*?(?:<\/answer>|$))/;
const LONG = 20000; // the API renders no longer text
const EMPTY_BOX = /^\s*\\boxed\{\s*\}\s*$/; // "write it in \boxed{}" means the letters
const TEXTS_AT_ONCE = 100, LETTERS_AT_ONCE = 200000, KEPT = 1000;
const FORMULA = { output: "mathml", throwOnError: true, trust: false, strict: "ignore", maxExpand: 200, maxSize: 20 };

const known = new Map(); // text -> HTML
let waiting = new Map(); // text -> the elements that show it
let katex = null;

/** Nodes for one answer; `raw` shows it as it is. */
export function answerText(text, raw) {
  if (raw || text.length > LONG) return [h("pre", { class: "raw" }, text)];
  return text.split(TAGS).filter((piece) => piece.trim()).map((piece) => {
    if (piece.startsWith("<think>")) {
      const body = piece.slice(7).replace(/<\/think>$/, "");
      return h("details", { class: "think", open: body.length < 200 }, h("summary", {}, `thinking, ${body.trim().split(/\s+/).length} words`), prose(body));
    }
    if (piece.startsWith("<answer>")) return h("div", { class: "answer" }, prose(piece.slice(8).replace(/<\/answer>$/, "")));
    return prose(piece);
  });
}

/** An element with `text`: as it was written at first, rendered once the API has answered; then it tells "rendered". */
export function prose(text) {
  const element = h("div", { class: "prose" }, text.trim());
  if (text.length > LONG) return element;
  if (!waiting.size) queueMicrotask(render);
  if (!waiting.has(text)) waiting.set(text, []);
  waiting.get(text).push(element);
  return element;
}

async function render() {
  const asked = waiting;
  waiting = new Map();
  for (const batch of batches([...asked.keys()].filter((text) => !known.has(text)))) await ask(batch);
  for (const [text, elements] of asked) {
    if (known.has(text)) elements.forEach((element) => fill(element, known.get(text)));
  }
}

/** What cannot be rendered now stays as it was written. */
async function ask(texts) {
  try {
    const { html } = await api.prose(texts);
    texts.forEach((text, index) => known.set(text, html[index]));
    for (const oldest of [...known.keys()].slice(0, Math.max(0, known.size - KEPT))) known.delete(oldest);
  } catch (error) {
    if (!error.status && !(error instanceof TypeError)) throw error;
  }
}

function* batches(texts) {
  let batch = [], letters = 0;
  for (const text of texts) {
    if (batch.length && (batch.length === TEXTS_AT_ONCE || letters + text.length > LETTERS_AT_ONCE)) {
      yield batch;
      [batch, letters] = [[], 0];
    }
    batch.push(text);
    letters += text.length;
  }
  if (batch.length) yield batch;
}

async function fill(element, html) {
  element.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
  element.classList.add("rendered");
  await drawFormulas(element);
  element.dispatchEvent(new CustomEvent("rendered", { bubbles: true }));
}

/** Formulas as MathML, their LaTeX in the title; one that KaTeX does not read stays LaTeX. */
async function drawFormulas(element) {
  const formulas = [...element.querySelectorAll(".math")];
  const drawer = formulas.length ? await loadKatex() : null;
  for (const one of formulas) {
    const latex = one.textContent;
    one.title = latex;
    try {
      if (drawer && !EMPTY_BOX.test(latex)) drawer.render(latex, one, { ...FORMULA, displayMode: one.tagName === "DIV" });
      else one.replaceChildren(h("code", {}, latex));
    } catch (error) {
      if (!(error instanceof drawer.ParseError) && !(error instanceof RangeError)) throw error;
      one.replaceChildren(h("code", {}, latex));
    }
  }
}

/** KaTeX, once the first formula is to be drawn; null where it is not installed. */
function loadKatex() {
  katex ??= new Promise((done) => {
    const script = h("script", { src: "/page/katex.min.js", onload: () => done(window.katex), onerror: () => done(null) });
    document.head.append(script);
  });
  return katex;
}
