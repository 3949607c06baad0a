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
    note.textContent = `the image is gone: ${error.message}`;
    note.hidden = false;
  });
  const labels = h("div", { class: "labels", "aria-hidden": "true" });
  const frame = h("div", { class: "frame" }, picture, overlay, labels);
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  const setBoxes = (predicted) => {
    const truth = index === 0 ? sample.true_boxes || [] : [];
    const answered = index === 0 ? predicted : [];
    overlay.replaceChildren(...truth.map((box) => rectangle(box, "true")), ...answered.map((box) => rectangle(box, "predicted")));
    labels.replaceChildren(...truth.map((box) => label(box, "true", box.label)), ...answered.map((box) => label(box, "predicted", named(box, truth))));
  };
  setBoxes([]);
  const legend = sample.true_boxes?.length ? h("figcaption", { class: "faint" }, h("span", { class: "key-true" }, "true"), " ", h("span", { class: "key-predicted" }, "answered, with its IoU")) : null;
  return { element: h("figure", { class: "picture" }, frame, legend, note), setBoxes };
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

function rectangle(box, kind) {
  const place = { x: box.x1, y: box.y1, width: Math.max(0, box.x2 - box.x1), height: Math.max(0, box.y2 - box.y1) };
  return svg("rect", { class: `box ${kind}`, ...place, "data-label": box.label }, svg("title", {}, `${kind}: ${box.label}`));
}
