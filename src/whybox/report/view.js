/**
 * An image with its detections and their maps, and everything that chooses among them.
 *
 * source.move(by): show the next or the previous image. source.changed(): called after the page has changed; maps that are not
 * there yet, null in `layer.maps`, may be put there, and `show` called, or `refresh` where there are more detections.
 * source.turn(target): explain another target; by default the next one that is there.
 */
const makeView = (page, source) => {
  const { bytes, make, write, writeTime, unfold, paint, paintBar, layWord, layText, tint } = heat;
  const { draw, closed, stroke, dot } = shapes;
  const find = (id) => document.getElementById(id);
  const tables = { positive: bytes(page.positive), signed: bytes(page.signed) };
  const state = { pinned: 0, peek: null, target: null, method: null, place: "", own: true, opacity: 0.85, threshold: null };
  let photo = null;
  let settled = null;

  // ---- small pieces ---------------------------------------------------------------------------------------------

  const writeScore = (score) => (score === null ? "–" : score.toFixed(2));
  const wordsOf = (target) => photo.layers.find((one) => one.target === target)?.words ?? page.silent;
  /** Whether a detection is above the threshold; what the reader drew always is. */
  const shown = (found) => state.threshold === null || found.drawn || found.score === null || found.score >= state.threshold;

  // ---- what is shown --------------------------------------------------------------------------------------------

  const active = () => state.peek ?? state.pinned;
  const placeOf = (one) => one.place ?? "";
  const layer = () =>
    photo.layers.find((one) => one.target === state.target && one.method === state.method && placeOf(one) === state.place);

  /** The map of a detection; null where there is none yet. */
  function mapOf(one, index) {
    const map = index === null ? null : (one?.maps[index] ?? null);
    // When it is first shown: a page may hold hundreds of maps.
    if (map) map.values ??= unfold(map);
    return map;
  }

  /** What the colors stand for: from the lowest to the highest value of the map, or of all maps of its layer. */
  function scaleOf(one, map) {
    const { low, high } = state.own ? map : one;
    const most = Math.max(Math.abs(low), Math.abs(high));
    const [signed, table] = one.signed ? [true, tables.signed] : [false, tables.positive];
    return { low: signed ? -most : low, high: signed ? most : high, signed, table, opacity: state.opacity };
  }

  const peak = (map) => Math.max(Math.abs(map.low), Math.abs(map.high));
  const strongest = (one) => Math.max(0, ...one.maps.filter(Boolean).map(peak));

  const WHOLE = { x: 0, y: 0, w: 1, h: 1 };

  function paintStage() {
    const canvas = find("heat");
    const one = layer();
    const map = mapOf(one, active());
    if (!map) return canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    paint(canvas, map, WHOLE, scaleOf(one, map));
  }

  // ---- the photograph and its boxes -----------------------------------------------------------------------------

  function layStage() {
    const stage = find("stage");
    const aspect = photo.width / photo.height;
    stage.style.aspectRatio = String(aspect);
    stage.style.width = `min(100%, calc(64vh * ${aspect}))`;
    const scale = Math.min(1, 720 / Math.max(photo.width, photo.height));
    find("heat").width = Math.max(1, Math.round(photo.width * scale));
    find("heat").height = Math.max(1, Math.round(photo.height * scale));
    find("photo").src = photo.picture;
    find("photo").alt = `${photo.name}, ${photo.detections.length} detections`;
    find("boxes").classList.toggle("whole", Boolean(photo.whole));
    find("boxes").setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
    find("boxes").replaceChildren(...photo.detections.map(drawBox));
  }

  const limbs = (found) => shapes.limbs(found, photo.limbs);

  /** The keypoint or the corner that a target is about, "keypoint:nose:x" or "corner:0:y"; else undefined. */
  function pointOf(target, found) {
    const [kind, name] = (target ?? "").split(":");
    if (kind === "keypoint") return found.points?.[photo.keypoints.indexOf(name)];
    return kind === "corner" ? found.corners?.[Number(name)] : undefined;
  }

  function drawBox(found, index) {
    const group = draw("g", { tabindex: 0, role: "button", "aria-label": `${found.name}, score ${writeScore(found.score)}` });
    group.append(...shapes.nodes(found, photo.limbs, ["seam", "line"]));
    group.addEventListener("focus", () => group.matches(":focus-visible") && set({ peek: index }));
    group.addEventListener("blur", () => set({ peek: null }));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pin(index);
      }
    });
    return group;
  }

  const SIDES = { left: [0, 1, 0, 3], top: [0, 1, 2, 1], right: [2, 1, 2, 3], bottom: [0, 3, 2, 3] };

  function markBoxes() {
    const index = active();
    const boxes = find("boxes");
    boxes.classList.toggle("asking", index !== null);
    boxes.querySelectorAll("line, .asked").forEach((mark) => mark.remove());
    [...boxes.children].forEach((group, i) => {
      group.toggleAttribute("hidden", !shown(photo.detections[i]));
      group.classList.toggle("on", i === index);
      group.setAttribute("aria-pressed", String(i === state.pinned));
    });
    const side = SIDES[wordsOf(state.target).side];
    if (index !== null && side && layer()) {
      const [x1, y1, x2, y2] = side.map((corner) => photo.detections[index].box[corner]);
      boxes.children[index].append(draw("line", { x1, y1, x2, y2 }));
    }
    const point = index !== null && layer() ? pointOf(state.target, photo.detections[index]) : undefined;
    if (point) boxes.children[index].append(draw("path", { d: dot(point), class: "asked" }));
    placeTag(index);
  }

  function placeTag(index) {
    const tag = find("tag");
    tag.hidden = index === null || Boolean(photo.whole);
    if (tag.hidden) return;
    const { box, name, score } = photo.detections[index];
    tag.textContent = `${name}  ${writeScore(score)}`;
    const stage = find("stage");
    const x = (Math.max(0, box[0]) / photo.width) * stage.clientWidth;
    const y = (Math.max(0, box[1]) / photo.height) * stage.clientHeight;
    tag.style.left = `${Math.max(0, Math.min(x, stage.clientWidth - tag.offsetWidth))}px`;
    tag.style.top = `${y > tag.offsetHeight + 6 ? y - tag.offsetHeight - 5 : Math.min(y + 6, stage.clientHeight - tag.offsetHeight)}px`;
  }

  /** Boxes under a point, the smallest first. */
  function under(event) {
    const edge = find("stage").getBoundingClientRect();
    const x = ((event.clientX - edge.left) / edge.width) * photo.width;
    const y = ((event.clientY - edge.top) / edge.height) * photo.height;
    const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
    return photo.detections
      .map((found, index) => ({ found, box: found.box, index }))
      .filter(({ found, box }) => shown(found) && box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3])
      .sort((a, b) => area(a.box) - area(b.box))
      .map(({ index }) => index);
  }

  /** Pin the smallest box under the pointer; again on the same place, the next larger one. */
  function pinUnder(event) {
    const hits = under(event);
    const turn = settled === hits.join() ? hits.indexOf(state.pinned) + 1 : 0;
    settled = hits.join();
    set({ pinned: hits.length ? hits[turn % hits.length] : null, peek: null });
  }

  // ---- words ----------------------------------------------------------------------------------------------------

  function ask() {
    const question = find("question");
    const index = active();
    const one = layer();
    const count = photo.detections.filter(shown).length;
    if (!count) {
      question.replaceChildren("No detections");
      find("meaning").textContent = "No box is above the score threshold. Lower the threshold, or pass a box of your own.";
      return;
    }
    if (index === null) {
      question.replaceChildren("Hover over a box to see why it is there");
      find("meaning").textContent = `${count} detections; click one to pin it.`;
      return;
    }
    const { name, score } = photo.detections[index];
    const [before, after = ""] = wordsOf(state.target).question.split("{name}");
    question.replaceChildren(before, make("em", { textContent: name }), after, make("small", { textContent: writeScore(score) }));
    const map = mapOf(one, index);
    find("meaning").textContent = map ? meaning(one, map) : "";
  }

  function meaning(one, map) {
    if (map.low === 0 && map.high === 0) return "This map is zero everywhere: the method found no evidence for it.";
    if (map.high === map.low) return "This map has the same value everywhere.";
    const sentence = wordsOf(one.target).meaning || "Brighter: a higher value of the map.";
    return one.signed ? `${sentence.replace("Brighter", "Red")} Blue: the opposite.` : sentence;
  }

  const heaviest = (pieces) => Math.max(0, ...heat.wordsOf(pieces).map((word) => Math.abs(word.weight)));

  /** What the words of the detection's text weigh. */
  function showWords() {
    const texts = layer()?.texts ?? [];
    const pieces = texts[active()] ?? [];
    find("words").hidden = !pieces.length;
    const most = heaviest(state.own ? pieces : texts.flat().filter(Boolean));
    find("words").querySelector(".said").replaceChildren(...layText(pieces, (word) => {
      const node = layWord("span", word);
      tint(node, word, most);
      return node;
    }));
  }

  function showLegend() {
    const one = layer();
    const index = active();
    find("legend").hidden = !one?.maps.some(Boolean);
    if (find("legend").hidden) return;
    const map = mapOf(one, index);
    const scale = scaleOf(one, map ?? { ...one });
    const { low, high } = scale;
    find("low").textContent = write(low);
    find("high").textContent = write(high);
    paintBar(find("bar"), scale);
    find("reach").hidden = state.own || !map;
    if (map && high > low) {
      find("reach").style.left = `${((map.low - low) / (high - low)) * 100}%`;
      find("reach").style.width = `${((map.high - map.low) / (high - low)) * 100}%`;
    }
    find("strength").textContent = map ? compare(peak(map), strongest(one)) : "";
    find("opacity-value").textContent = `${Math.round(state.opacity * 100)} %`;
  }

  function compare(own, most) {
    if (most === 0) return "All maps of this target and method are zero.";
    if (own === most) return "The strongest map of this target and method in the image.";
    const share = (own / most) * 100;
    return `Peaks at ${share < 1 ? "less than 1" : Math.round(share)} % of the strongest map here.`;
  }

  /** The map's own cells; and, where it is much finer than what is stored here, how many of them one drawn cell averages. */
  function gridOf(map) {
    const [rows, columns] = map.grid;
    const fold = Math.max(rows, columns) / Math.max(map.h, map.w);
    return `${rows} × ${columns} cells${fold > 1.5 ? `, shown as means over about ${fold.toFixed(0)} × ${fold.toFixed(0)}` : ""}`;
  }

  function shapeFacts(found) {
    const asked = found.points?.[photo.keypoints.indexOf((state.target ?? "").split(":")[1])];
    const rows = found.corners ? [["Corners", found.corners.map((point) => point.map(Math.round).join(" ")).join(", ")]] : [];
    if (asked) rows.push(["Keypoint", `${Math.round(asked[0])}, ${Math.round(asked[1])}, score ${asked[2].toFixed(2)}`]);
    return rows;
  }

  function showFacts() {
    const index = active();
    const one = layer();
    const rows = [];
    // Of a box that the reader drew, it stands above the photograph.
    const found = index === null ? null : photo.detections[index];
    const note = !found || found.drawn ? "" : one?.notes?.[index] || found.note;
    if (index !== null && !photo.whole) rows.push(["Box", photo.detections[index].box.map((side) => Math.round(side)).join(", ")]);
    if (found) rows.push(...shapeFacts(found));
    const map = mapOf(one, index);
    if (map) {
      rows.push(["Raw values", `${write(map.raw[0])} to ${write(map.raw[1])}`], ["Grid", gridOf(map)]);
      if (map.layer) rows.push(["Layer", map.layer]);
      if (map.route) rows.push(["Gradient", page.routes[map.route] || map.route]);
    }
    const words = heat.wordsOf(one?.texts?.[index] ?? []);
    if (words.length) rows.push(["Words", words.map((word) => `${word.text} ${write(word.weight)}`).join(", ")]);
    if (one?.options) rows.push(["Options", one.options]);
    const times = Object.entries(photo.seconds).map(([name, seconds]) => `${name} ${writeTime(seconds)}`);
    if (one?.seconds) times.push(`these maps ${writeTime(one.seconds)}`);
    if (times.length) rows.push(["Time", times.join(", ")]);
    if (photo.model) rows.push(["Model", photo.model]);
    rows.push(["Image", `${photo.width} × ${photo.height} px`]);
    const list = make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
    find("facts").replaceChildren(...(note ? [make("p", { className: "note", textContent: note })] : []), list);
  }

  // ---- choosing -------------------------------------------------------------------------------------------------

  const unique = (values) => [...new Set(values)];

  function layChoices() {
    // Where all that is offered is known, the page around has its own way to choose.
    const targets = photo.targets ? [] : unique(photo.layers.map((one) => one.target));
    const methods = photo.targets ? [] : unique(photo.layers.map((one) => one.method));
    layChoice("target", "What is explained", targets, (target) => wordsOf(target).label);
    layChoice("method", "Method", methods, (method) => photo.methods[method] || method);
  }

  function layChoice(kind, title, values, label) {
    const group = find(`choose-${kind}`);
    if (values.length < 2 || !photo.detections.length) return group.replaceChildren();
    const buttons = values.map((value) => {
      const input = make("input", { type: "radio", name: kind, value });
      input.addEventListener("change", () => choose({ [kind]: value }));
      return make("label", { title: label(value) }, input, make("span", { textContent: label(value) }));
    });
    const segments = make("div", { className: "segments" }, ...buttons);
    segments.setAttribute("role", "radiogroup");
    segments.setAttribute("aria-label", title);
    group.replaceChildren(make("h2", { textContent: title }), segments);
  }

  /** Take a target or a method; where the pair was not computed, the other gives way. */
  function choose(change) {
    const want = { target: state.target, method: state.method, ...change };
    const fits = (one) => Object.entries(change).every(([kind, value]) => one[kind] === value);
    const both = photo.layers.find((one) => one.target === want.target && one.method === want.method);
    const found = (layer() && !Object.keys(change).length && layer()) || both || photo.layers.find(fits) || photo.layers[0];
    set({ target: found?.target ?? null, method: found?.method ?? null, place: found ? placeOf(found) : "" });
  }

  function markChoices() {
    for (const kind of ["target", "method"]) {
      for (const input of document.querySelectorAll(`input[name="${kind}"]`)) input.checked = input.value === state[kind];
    }
    const methods = unique(photo.layers.map((one) => one.method));
    find("model").textContent = [photo.model, methods.length === 1 ? photo.methods[methods[0]] || methods[0] : ""].filter(Boolean).join(" · ");
  }

  function layList() {
    document.querySelector(".found").hidden = !photo.detections.length;
    find("list").replaceChildren(...photo.detections.map(layRow));
  }

  function layRow(found, index) {
    const meter = make("span", { className: "meter" }, make("i"));
    const button = make(
      "button", { type: "button", title: found.name }, make("b", { textContent: found.name }),
      make("span", { className: "score", textContent: writeScore(found.score) }), meter,
    );
    button.addEventListener("click", () => pin(index));
    button.addEventListener("pointerenter", () => set({ peek: index }));
    button.addEventListener("pointerleave", () => set({ peek: null }));
    return make("li", {}, button);
  }

  function markList() {
    const one = layer();
    const most = one ? strongest(one) : 0;
    const count = photo.detections.filter(shown).length;
    const [single, several] = photo.whole ?? ["detection", "detections"];
    find("count").textContent = `${count} ${count === 1 ? single : several}`;
    [...find("list").children].forEach((row, i) => {
      row.hidden = !shown(photo.detections[i]);
      row.classList.toggle("on", i === active());
      row.classList.toggle("pinned", i === state.pinned);
      const button = row.firstElementChild;
      button.tabIndex = i === (state.pinned ?? 0) ? 0 : -1;
      button.setAttribute("aria-pressed", String(i === state.pinned));
      row.querySelector(".meter i").style.width = most && one.maps[i] ? `${(peak(one.maps[i]) / most) * 100}%` : "0";
    });
  }

  function pin(index) {
    set({ pinned: state.pinned === index ? null : index, peek: null });
  }

  // ---- the close-ups: one detection, every method and target ------------------------------------------------------

  /** The box and as much again around it, as shares of the photograph, 4 wide and 3 high where that fits. */
  function closeUp(box) {
    const [x1, y1, x2, y2] = box;
    const wide = Math.max((x2 - x1) * 1.8, (y2 - y1) * 2.4, photo.width / 5);
    const w = Math.min(photo.width, wide);
    const h = Math.min(photo.height, wide * 0.75);
    const x = Math.min(Math.max(0, (x1 + x2 - w) / 2), photo.width - w);
    const y = Math.min(Math.max(0, (y1 + y2 - h) / 2), photo.height - h);
    return { x: x / photo.width, y: y / photo.height, w: w / photo.width, h: h / photo.height };
  }

  function laySheet() {
    const many = photo.layers.length > 1 && photo.detections.length > 0;
    const methods = many ? unique(photo.layers.map((one) => one.method)) : [];
    find("sheet").replaceChildren(...methods.map((method) => {
      const row = photo.layers.filter((one) => one.method === method).map((one) => {
        const canvas = make("canvas", { width: 208, height: 156 });
        const button = make("button", { type: "button", one }, canvas, make("span", { textContent: [wordsOf(one.target).label, placeOf(one)].filter(Boolean).join(" · ") }));
        button.addEventListener("click", () => set({ target: one.target, method: one.method, place: placeOf(one) }));
        return button;
      });
      const title = methods.length > 1 ? [make("h3", { textContent: photo.methods[method] || method })] : [];
      return make("div", { className: "row" }, ...title, make("div", {}, ...row));
    }));
  }

  function paintSheet() {
    const index = active();
    find("sheet").hidden = index === null;
    if (index === null) return;
    const found = photo.detections[index];
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
    const scale = Math.min(W / (view.w * photo.width), H / (view.h * photo.height));
    const w = view.w * photo.width * scale;
    const h = view.h * photo.height * scale;
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
    const at = (x, y) => [left + (x / photo.width - view.x) * photo.width * scale, top + (y / photo.height - view.y) * photo.height * scale];
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
    const [x, y] = [canvas.width / photo.width, canvas.height / photo.height];
    const index = active();
    const kept = index === null ? photo.detections.filter(shown) : [photo.detections[index]];
    for (const found of kept) outline(context, found, (px, py) => [px * x, py * y], canvas.width / 400);
    const stem = photo.name.replace(/\.[^.]*$/, "");
    const words = index === null ? [stem] : [stem, photo.detections[index].name, state.target, state.method];
    make("a", { href: canvas.toDataURL("image/png"), download: `${words.filter(Boolean).join("-")}.png` }).click();
  }

  // ---- one way from a change to the page ----------------------------------------------------------------------------

  function set(change) {
    // Pointers move all the time, mostly without leaving a box.
    if (Object.entries(change).every(([name, value]) => state[name] === value)) return;
    Object.assign(state, change);
    if (photo) show();
  }

  function show() {
    paintStage();
    markBoxes();
    markChoices();
    markList();
    ask();
    showWords();
    showLegend();
    showFacts();
    paintSheet();
    source.changed?.();
  }

  /** Show an image. */
  function open(next) {
    photo = next;
    const first = photo.detections.findIndex(shown);
    Object.assign(state, { pinned: first < 0 ? null : first, peek: null });
    find("photo-name").textContent = photo.name;
    layStage();
    layChoices();
    layList();
    laySheet();
    choose({});
    show();
  }

  /** Show what was added to the image: detections, layers, maps. */
  function refresh() {
    find("boxes").replaceChildren(...photo.detections.map(drawBox));
    layList();
    laySheet();
    show();
  }

  function step(values, current, by) {
    const at = values.indexOf(current);
    return values[at < 0 ? (by > 0 ? 0 : values.length - 1) : (at + by + values.length) % values.length];
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea")) return;
    if (!photo) return;
    const rows = photo.detections.map((_, i) => i).filter((i) => shown(photo.detections[i]));
    const here = photo.targets ?? photo.layers.filter((one) => one.method === state.method).map((one) => one.target);
    const moves = {
      ArrowDown: () => moveTo(step(rows, active(), 1)),
      ArrowUp: () => moveTo(step(rows, active(), -1)),
      ArrowRight: () => turnTo(step(here, state.target, 1)),
      ArrowLeft: () => turnTo(step(here, state.target, -1)),
      PageDown: () => source.move(1),
      PageUp: () => source.move(-1),
      Escape: () => set({ pinned: null, peek: null }),
    };
    const wanted = moves[event.key];
    if (!wanted || (!rows.length && event.key.startsWith("Arrow")) || (!source.move && event.key.startsWith("Page"))) return;
    event.preventDefault();
    wanted();
  }

  const turnTo = (target) => (source.turn ? source.turn(target) : choose({ target }));

  /** Scroll `outer`, and never the page, until `inner` can be seen in it. */
  function reveal(outer, inner) {
    const [frame, part] = [outer.getBoundingClientRect(), inner.getBoundingClientRect()];
    outer.scrollTop += Math.min(0, part.top - frame.top) + Math.max(0, part.bottom - frame.bottom);
    outer.scrollLeft += Math.min(0, part.left - frame.left) + Math.max(0, part.right - frame.right);
  }

  function moveTo(index) {
    const inList = document.activeElement?.closest("#list");
    set({ pinned: index, peek: null });
    const row = find("list").children[index];
    reveal(find("list"), row);
    if (inList) row.firstElementChild.focus({ preventScroll: true });
    if (document.activeElement?.closest("#boxes")) find("boxes").children[index].focus({ preventScroll: true });
  }

  function listen() {
    const stage = find("stage");
    // A finger does not hover: before its tap, it would peek at what the tap pins.
    stage.addEventListener("pointermove", (event) => photo && event.pointerType === "mouse" && set({ peek: peekUnder(event) }));
    stage.addEventListener("pointerleave", () => set({ peek: null }));
    stage.addEventListener("click", (event) => photo && pinUnder(event));
    find("photo").addEventListener("load", () => photo && paintSheet());
    find("opacity").addEventListener("input", (event) => set({ opacity: event.target.value / 100 }));
    find("grey").addEventListener("change", (event) => {
      stage.classList.toggle("grey", event.target.checked);
      if (photo) paintSheet();
    });
    for (const input of document.querySelectorAll('input[name="scale"]')) {
      input.addEventListener("change", () => set({ own: input.value === "own" }));
    }
    find("keep").addEventListener("click", () => photo && keep());
    find("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    });
    document.addEventListener("keydown", key);
    new ResizeObserver(() => photo && placeTag(active())).observe(stage);
  }

  /** The smallest box under the pointer; after a click, none until other boxes come under it. */
  function peekUnder(event) {
    const hits = under(event);
    if (hits.join() === settled) return null;
    settled = null;
    return hits[0] ?? null;
  }

  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  listen();
  return { open, refresh, show, laySheet, set, state, reveal, active, layer, mapOf, scaleOf, shown, writeScore, photo: () => photo };
};
