/**
 * Pictures made of what is shown: close-ups of one detection by every method and target, and the view as a PNG.
 *
 * seen: what is shown, as of `makeView`. choose(layer): show another one.
 */
const makeCloseUps = (seen, choose) => {
  const { make, paint } = heat;
  const { closed, stroke, dot } = shapes;
  const { state, photo, active, layer, mapOf, scaleOf, shown, wordsOf, placeOf, limbs } = seen;
  const find = (id) => document.getElementById(id);
  const unique = (values) => [...new Set(values)];

  /** The box and as much again around it, as shares of the photograph, 4 wide and 3 high where that fits. */
  function closeUp(box) {
    const [x1, y1, x2, y2] = box;
    const wide = Math.max((x2 - x1) * 1.8, (y2 - y1) * 2.4, photo().width / 5);
    const w = Math.min(photo().width, wide);
    const h = Math.min(photo().height, wide * 0.75);
    const x = Math.min(Math.max(0, (x1 + x2 - w) / 2), photo().width - w);
    const y = Math.min(Math.max(0, (y1 + y2 - h) / 2), photo().height - h);
    return { x: x / photo().width, y: y / photo().height, w: w / photo().width, h: h / photo().height };
  }

  function laySheet() {
    const many = photo().layers.length > 1 && photo().detections.length > 0;
    const methods = many ? unique(photo().layers.map((one) => one.method)) : [];
    find("sheet").replaceChildren(...methods.map((method) => {
      const row = photo().layers.filter((one) => one.method === method).map((one) => {
        const canvas = make("canvas", { width: 208, height: 156 });
        const button = make("button", { type: "button", one }, canvas, make("span", { textContent: [wordsOf(one.target).label, placeOf(one)].filter(Boolean).join(" · ") }));
        button.addEventListener("click", () => choose({ target: one.target, method: one.method, place: placeOf(one) }));
        return button;
      });
      const title = methods.length > 1 ? [make("h3", { textContent: photo().methods[method] || method })] : [];
      return make("div", { className: "row" }, ...title, make("div", {}, ...row));
    }));
  }

  function paintSheet() {
    const index = active();
    find("sheet").hidden = index === null;
    if (index === null) return;
    const found = photo().detections[index];
    const view = closeUp(found.box);
    for (const button of find("sheet").querySelectorAll("button")) {
      const map = mapOf(button.one, index);
      button.hidden = !map;
      button.setAttribute("aria-pressed", String(button.one === layer()));
      if (map) paintCloseUp(button.querySelector("canvas"), button.one, map, view, found);
    }
  }

  function paintCloseUp(canvas, one, map, view, found) {
    const image = find("photo");
    // Not decoded yet: its load event paints again.
    if (!image.naturalWidth) return;
    const { width: W, height: H } = canvas;
    const scale = Math.min(W / (view.w * photo().width), H / (view.h * photo().height));
    const w = view.w * photo().width * scale;
    const h = view.h * photo().height * scale;
    const [left, top] = [(W - w) / 2, (H - h) / 2];
    const drawn = make("canvas", { width: Math.max(1, Math.round(w)), height: Math.max(1, Math.round(h)) });
    paint(drawn, map, view, scaleOf(one, map));
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, W, H);
    context.filter = find("grey").checked ? "grayscale(1)" : "none";
    const [nw, nh] = [image.naturalWidth, image.naturalHeight];
    context.drawImage(image, view.x * nw, view.y * nh, view.w * nw, view.h * nh, left, top, w, h);
    context.filter = "none";
    context.drawImage(drawn, left, top, w, h);
    const at = (x, y) => [left + (x / photo().width - view.x) * photo().width * scale, top + (y / photo().height - view.y) * photo().height * scale];
    outline(context, found, at, 1.5);
  }

  /** A detection's box, mask and keypoints on a canvas. at: a point of the image -> its place there. */
  function outline(context, found, at, line) {
    const [x1, y1, x2, y2] = found.box;
    const box = found.corners ?? [[x1, y1], [x2, y1], [x2, y2], [x1, y2]];
    const move = (ring) => ring.map(([x, y]) => at(x, y));
    const path = new Path2D([box, ...(found.outlines ?? [])].map((ring) => closed(move(ring))).join("")
      + limbs(found).map((pair) => stroke(...move(pair))).join(""));
    const dots = new Path2D(move(found.points ?? []).map(dot).join(""));
    for (const [style, width] of [["rgba(12,13,17,.6)", line * 2.2], ["#fff", line]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: width, lineCap: "butt" });
      context.stroke(path);
      Object.assign(context, { lineWidth: width + 2 * line, lineCap: "round" });
      context.stroke(dots);
    }
  }

  /** The view as a PNG in the photograph's stored size. */
  function keep() {
    const image = find("photo");
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d");
    context.filter = find("grey").checked ? "grayscale(1)" : "none";
    context.drawImage(image, 0, 0);
    context.filter = "none";
    context.drawImage(find("heat"), 0, 0, canvas.width, canvas.height);
    const [x, y] = [canvas.width / photo().width, canvas.height / photo().height];
    const index = active();
    const kept = index === null ? photo().detections.filter(shown) : [photo().detections[index]];
    for (const found of kept) outline(context, found, (px, py) => [px * x, py * y], canvas.width / 400);
    const stem = photo().name.replace(/\.[^.]*$/, "");
    const words = index === null ? [stem] : [stem, photo().detections[index].name, state.target, state.method];
    make("a", { href: canvas.toDataURL("image/png"), download: `${words.filter(Boolean).join("-")}.png` }).click();
  }

  return { laySheet, paintSheet, keep };
};
