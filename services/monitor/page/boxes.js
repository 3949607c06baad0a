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
  const frame = h("div", { class: "frame" }, picture, overlay);
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  const setBoxes = (predicted) => {
    const truth = index === 0 ? sample.true_boxes || [] : [];
    overlay.replaceChildren(...truth.map((box) => rectangle(box, "true")), ...(index === 0 ? predicted : []).map((box) => rectangle(box, "predicted")));
  };
  setBoxes([]);
  return { element: h("figure", { class: "picture" }, frame, note), setBoxes };
}

function rectangle(box, kind) {
  const place = { x: box.x1, y: box.y1, width: Math.max(0, box.x2 - box.x1), height: Math.max(0, box.y2 - box.y1) };
  return svg("rect", { class: `box ${kind}`, ...place, "data-label": box.label }, svg("title", {}, `${kind}: ${box.label}`));
}
