/** Detections as SVG: boxes, masks, keypoints with limbs, turned boxes. */
const shapes = (() => {
  function draw(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  const place = ([x1, y1, x2, y2]) => ({ x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) });
  const closed = (ring) => `M${ring.map(([x, y]) => `${x} ${y}`).join("L")}Z`;
  const stroke = ([x1, y1], [x2, y2]) => `M${x1} ${y1}L${x2} ${y2}`;
  /** A line without length, which round ends make a dot of the same size at every scale. */
  const dot = ([x, y]) => `M${x} ${y}h0`;
  /** The lines between a detection's keypoints. pairs: which are joined. */
  const limbs = (found, pairs) => (found.points ? pairs.map((pair) => pair.map((i) => found.points[i])) : []);

  /** A detection's nodes, each once for every style, the lower one first. */
  function nodes(found, pairs, styles) {
    const twice = (tag, attributes, more = "") => styles.map((style) => draw(tag, { ...attributes, class: style + more }));
    // A turned box stands for the upright one around it.
    const box = found.corners ? twice("path", { d: closed(found.corners) }) : twice("rect", place(found.box));
    const lines = [...(found.outlines ?? []).map(closed), ...limbs(found, pairs).map(([a, b]) => stroke(a, b))].join("");
    const dots = (found.points ?? []).map(dot).join("");
    return [...box, ...(lines ? twice("path", { d: lines }) : []), ...(dots ? twice("path", { d: dots }, " dot") : [])];
  }

  return { draw, place, closed, stroke, dot, limbs, nodes };
})();
