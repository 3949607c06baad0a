// Answers as people read them: think blocks folded, the answer marked, LaTeX as MathML; or raw.

import { h, mathml } from "./dom.js";

const TAGS = /(<think>[\s\S]*?(?:<\/think>|$)|<answer>[\s\S]*?(?:<\/answer>|$))/;
const MATH = /(\$\$[\s\S]+?\$\$|\$[^$\n]+?\$|\\\[[\s\S]+?\\\]|\\\([\s\S]+?\\\)|\\boxed\{(?:[^{}]|\{[^{}]*\})*\})/;
const LONG = 20000;

/** Nodes for one answer; `raw` shows it as it is. */
export function answerText(text, raw) {
  if (raw || text.length > LONG) return [h("pre", { class: "raw" }, text)];
  return text.split(TAGS).filter(Boolean).map((piece) => {
    if (piece.startsWith("<think>")) {
      const body = piece.slice(7).replace(/<\/think>$/, "");
      return h("details", { class: "think", open: body.length < 200 }, h("summary", {}, "thinking"), prose(body));
    }
    if (piece.startsWith("<answer>")) return h("div", { class: "answer" }, prose(piece.slice(8).replace(/<\/answer>$/, "")));
    return prose(piece);
  });
}

/** Text with its LaTeX drawn. */
export function prose(text) {
  return h("div", { class: "prose" }, text.trim().split(MATH).filter(Boolean).map((piece) => {
    const inner = unwrap(piece);
    return inner === null ? piece : formula(inner, piece);
  }));
}

function unwrap(piece) {
  if (/^\$\$[\s\S]+\$\$$/.test(piece)) return piece.slice(2, -2);
  if (/^\$[\s\S]+\$$/.test(piece)) return piece.slice(1, -1);
  if (/^\\[[(][\s\S]+\\[\])]$/.test(piece)) return piece.slice(2, -2);
  return piece.startsWith("\\boxed{") && piece !== "\\boxed{}" ? piece : null;
}

/** A formula as MathML, its source in the title; what the reader does not know stays as it was written. */
export function formula(source, title = source) {
  try {
    return mathml("math", { title }, new Reader(source).row());
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return h("code", {}, title);
  }
}

const SIGNS = {
  times: "×", cdot: "·", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠", approx: "≈",
  equiv: "≡", infty: "∞", to: "→", rightarrow: "→", Rightarrow: "⇒", in: "∈", notin: "∉", subset: "⊂", cup: "∪", cap: "∩",
  sum: "∑", prod: "∏", int: "∫", partial: "∂", angle: "∠", perp: "⊥", parallel: "∥", triangle: "△", circ: "∘", degree: "°",
  ldots: "…", cdots: "⋯", dots: "…", forall: "∀", exists: "∃", therefore: "∴", because: "∵", sim: "∼", cong: "≅", quad: "\u2003",
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", theta: "θ", lambda: "λ", mu: "μ", nu: "ν", pi: "π", rho: "ρ",
  sigma: "σ", tau: "τ", phi: "φ", varphi: "φ", chi: "χ", psi: "ψ", omega: "ω", Delta: "Δ", Gamma: "Γ", Omega: "Ω", Sigma: "Σ",
  Pi: "Π", Theta: "Θ", Lambda: "Λ", Phi: "Φ", Psi: "Ψ", "%": "%", "$": "$", "{": "{", "}": "}", "#": "#", "&": "&", _: "_",
  "|": "‖", ",": "\u2009", ";": "\u2005", ":": "\u2005", "!": "", " ": " ", "\\": "",
};
const ACCENTS = { overline: "¯", bar: "¯", vec: "→", hat: "^", widehat: "^", dot: "˙", ddot: "¨", tilde: "˜" };
const WORDS = new Set(["sin", "cos", "tan", "cot", "log", "ln", "exp", "min", "max", "lim", "gcd", "mod", "det"]);
const UNWRAPPED = new Set(["left", "right", "displaystyle", "textstyle", "limits", "big", "Big", "bigl", "bigr"]);
const TEXT = new Set(["text", "mathrm", "mbox", "textbf", "textit", "mathbf", "operatorname", "mathit"]);

/** Reads the LaTeX that answers use; throws SyntaxError at anything else. */
class Reader {
  constructor(source) {
    this.tokens = source.match(/\\[a-zA-Z]+|\\.|[0-9]+(?:\.[0-9]+)?|\s+|[\s\S]/g) || [];
    this.at = 0;
    this.depth = 0;
  }

  row(end = null) {
    if (++this.depth > 40) throw new SyntaxError("nested too deep");
    const items = [];
    while (this.at < this.tokens.length && this.tokens[this.at] !== end) {
      const item = this.scripted();
      if (item) items.push(item);
    }
    if (end !== null && this.tokens[this.at++] !== end) throw new SyntaxError(`no ${end}`);
    this.depth--;
    return mathml("mrow", {}, items);
  }

  scripted() {
    const base = this.item();
    let sub = null, sup = null;
    while (this.tokens[this.at] === "_" || this.tokens[this.at] === "^") {
      if (this.tokens[this.at++] === "_") sub = this.argument();
      else sup = this.argument();
    }
    if (!sub && !sup) return base;
    const body = base || mathml("mrow");
    if (sub && sup) return mathml("msubsup", {}, body, sub, sup);
    return sub ? mathml("msub", {}, body, sub) : mathml("msup", {}, body, sup);
  }

  argument() {
    this.blanks();
    return this.item() || mathml("mrow");
  }

  blanks() {
    while (/^\s/.test(this.tokens[this.at] || "")) this.at++;
  }

  item() {
    const token = this.tokens[this.at++];
    if (token === undefined) throw new SyntaxError("the formula ends too early");
    if (/^\s/.test(token)) return null;
    if (token === "{") return this.row("}");
    if (token === "}" || token === "&") throw new SyntaxError(`unexpected ${token}`);
    if (/^[0-9]/.test(token)) return mathml("mn", {}, token);
    if (/^[a-zA-Z]$/.test(token)) return mathml("mi", {}, token);
    return token.startsWith("\\") ? this.command(token.slice(1)) : mathml("mo", {}, token);
  }

  command(name) {
    if (name === "frac" || name === "dfrac" || name === "tfrac") return mathml("mfrac", {}, this.argument(), this.argument());
    if (name === "sqrt") return this.root();
    if (name === "boxed" || name === "fbox") return mathml("mrow", { class: "boxed" }, this.argument());
    if (name in ACCENTS) return mathml("mover", { accent: "true" }, this.argument(), mathml("mo", {}, ACCENTS[name]));
    if (TEXT.has(name)) return mathml("mtext", {}, this.plain());
    if (WORDS.has(name)) return mathml("mi", {}, name);
    if (UNWRAPPED.has(name)) return null;
    if (name in SIGNS) return mathml("mo", {}, SIGNS[name]);
    throw new SyntaxError(`unknown command ${name}`);
  }

  root() {
    this.blanks();
    if (this.tokens[this.at] !== "[") return mathml("msqrt", {}, this.argument());
    this.at++;
    const degree = this.row("]");
    return mathml("mroot", {}, this.argument(), degree);
  }

  plain() {
    this.blanks();
    if (this.tokens[this.at++] !== "{") throw new SyntaxError("no {");
    let text = "", depth = 1;
    while (this.at < this.tokens.length) {
      const token = this.tokens[this.at++];
      depth += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (depth === 0) return text;
      text += token;
    }
    throw new SyntaxError("no }");
  }
}
