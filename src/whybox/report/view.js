/**
 * An image with its detections and their maps, and everything that chooses among them.
 *
 * source.move(by): show the next or the previous image. source.changed(): called after the page has changed; maps that are not
 * there yet, null in `layer.maps`, may be put there, and `show` called, or `refresh` where there are more detections.
 * source.turn(target): explain another target; by default the next one that is there.
 */
const makeView = (page, source) => {
  const { bytes, make, unfold, paint } = heat;
  const { draw, dot } = shapes;
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

  const seen = { state, photo: () => photo, active, layer, mapOf, scaleOf, shown, wordsOf, placeOf, writeScore, peak, strongest, limbs };
  const saying = makeSaying(page, seen);
  const closeUps = makeCloseUps(seen, set);

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
    find("photo").alt = `${photo.name}, ${find("count").textContent}`;
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
    saying.say();
    closeUps.paintSheet();
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
    closeUps.laySheet();
    choose({});
    show();
  }

  /** Show what was added to the image: detections, layers, maps. */
  function refresh() {
    find("boxes").replaceChildren(...photo.detections.map(drawBox));
    layList();
    closeUps.laySheet();
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
    find("photo").addEventListener("load", () => photo && closeUps.paintSheet());
    find("opacity").addEventListener("input", (event) => set({ opacity: event.target.value / 100 }));
    find("grey").addEventListener("change", (event) => {
      stage.classList.toggle("grey", event.target.checked);
      if (photo) closeUps.paintSheet();
    });
    for (const input of document.querySelectorAll('input[name="scale"]')) {
      input.addEventListener("change", () => set({ own: input.value === "own" }));
    }
    find("keep").addEventListener("click", () => photo && closeUps.keep());
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
  return { open, refresh, show, laySheet: closeUps.laySheet, set, state, reveal, active, layer, mapOf, scaleOf, shown, writeScore, photo: () => photo };
};
