// An image with boxes drawn on it: what is true in one colour, what was answered in another.

import * as api from "./api.js";
import { h, svg } from "./dom.js";

/** A figure of image number `index` of a sample; `predicted` may be replaced through the returned `setBoxes`. */
export function boxedImage(job, sample, index) {
  const image = sample.images[index];
  const overlay = svg("svg", { class: "overlay", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const picture = h("img", { alt: `image ${index + 1} of ${sample.sample_id}`, width: image.width, height: image.height });
  const note = h("small", { class: "faint", hidden: true });
  api.imageUrl(job, image.digest).then((url) => { picture.src = url; }, (error) => {
    note.textContent = error.status === 404 ? "The image is not kept: of a run that is over, those of its newest samples are." : `the image cannot be shown: ${error.message}`;
    note.hidden = false;
    if (!(sample.true_boxes?.length || sample.completions.some((completion) => completion.boxes?.length))) frame.hidden = true; // boxes are worth a look without it
  });
  const labels = h("div", { class: "labels", "aria-hidden": "true" });
  const frame = h("div", { class: "frame" }, picture, overlay, labels);
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  const setBoxes = (predicted) => {
    const truth = index === 0 ? sample.true_boxes || [] : [];
    const answered = index === 0 ? predicted : [];
    overlay.replaceChildren(...truth.map((box) => rectangle(box, "true")), ...answered.map((box, index) => rectangle(box, "predicted", index)));
    labels.replaceChildren(...truth.map((box) => label(box, "true", box.label)), ...answered.map((box) => label(box, "predicted", named(box, truth))));
  };
  setBoxes([]);
  const legend = sample.true_boxes?.length ? h("figcaption", { class: "faint" }, h("span", { class: "key-true" }, "true"), " ", h("span", { class: "key-predicted" }, "answered, with its IoU")) : null;
  const light = (place, isLit) => overlay.querySelectorAll(".predicted").forEach((box) => box.classList.toggle("lit", isLit && box.dataset.place === String(place)));
  return { element: h("figure", { class: "picture" }, frame, legend, note), setBoxes, light, overlay };
}

const CORNERS = /\[\s*-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?){3}\s*\]/g;

/** Tie the first `count` boxes that `text` names to their rectangles: each lights up when the other is pointed at. */
export function linkBoxes(text, count, picture) {
  const mark = () => {
    const marks = markCorners(text, count);
    marks.forEach((element, place) => {
      for (const [name, isLit] of [["pointerenter", true], ["pointerleave", false], ["focus", true], ["blur", false]]) element.addEventListener(name, () => picture.light(place, isLit));
    });
  };
  const point = (isLit) => (event) => {
    const place = event.target.dataset?.place;
    if (place !== undefined && text.closest(".completion")?.classList.contains("chosen")) text.querySelectorAll(`mark[data-place="${place}"]`).forEach((one) => one.classList.toggle("lit", isLit));
  };
  picture.overlay.addEventListener("pointerover", point(true));
  picture.overlay.addEventListener("pointerout", point(false));
  text.addEventListener("rendered", mark);
  mark();
}

/** The places in a text that name four corners, as marks; in order, and those that are marked already. */
function markCorners(text, count) {
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT), nodes = [];
  while (walker.nextNode()) if (!walker.currentNode.parentElement.closest("mark")) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const pieces = [];
    let end = 0;
    for (const found of node.data.matchAll(CORNERS)) {
      pieces.push(node.data.slice(end, found.index), h("mark", { tabindex: 0 }, found[0]));
      end = found.index + found[0].length;
    }
    if (pieces.length) node.replaceWith(...pieces, node.data.slice(end));
  }
  const marks = [...text.querySelectorAll("mark")].slice(0, count);
  marks.forEach((element, place) => { element.dataset.place = place; });
  return marks;
}

/** An answered box's label with the IoU of the true box that it meets best. */
function named(box, truth) {
  const best = Math.max(0, ...truth.map((other) => iou(box, other)));
  return truth.length ? `${box.label} ${best.toFixed(2)}` : box.label;
}

/** Intersection over union of two boxes in fractions of the image, 0 to 1. */
export function iou(one, other) {
  const width = Math.max(0, Math.min(one.x2, other.x2) - Math.max(one.x1, other.x1));
  const height = Math.max(0, Math.min(one.y2, other.y2) - Math.max(one.y1, other.y1));
  const area = (box) => Math.max(0, box.x2 - box.x1) * Math.max(0, box.y2 - box.y1);
  const union = area(one) + area(other) - width * height;
  return union > 0 ? (width * height) / union : 0;
}

function label(box, kind, text) {
  const element = h("span", { class: `box-label ${kind}` }, text);
  element.style.left = `${100 * Math.max(0, Math.min(1, box.x1))}%`;
  element.style[kind === "true" ? "top" : "bottom"] = kind === "true" ? `${100 * Math.max(0, Math.min(1, box.y1))}%` : `${100 * (1 - Math.max(0, Math.min(1, box.y2)))}%`;
  return element;
}

/** A box as a rectangle of the overlay; `number` is its place among the answered ones. */
export function rectangle(box, kind, number = null) {
  const place = { x: box.x1, y: box.y1, width: Math.max(0, box.x2 - box.x1), height: Math.max(0, box.y2 - box.y1) };
  return svg("rect", { class: `box ${kind}`, ...place, "data-label": box.label, "data-place": number }, svg("title", {}, `${kind}: ${box.label}`));
}
