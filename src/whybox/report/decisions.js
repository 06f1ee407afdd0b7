(() => {
  const { bytes, make, write, unfold, paint, paintBar } = heat;
  const { draw, place } = shapes;
  const find = (id) => document.getElementById(id);
  const page = JSON.parse(find("page").textContent);
  const bodies = [...document.querySelectorAll("script.photo")];
  const tables = { positive: bytes(page.positive), signed: bytes(page.signed) };
  const state = { photo: 0, box: 0, pair: null, filter: "box", own: true, opacity: 0.85 };
  let photo = null;
  let settled = null;

  const two = (value) => (value === null ? "–" : value.toFixed(2));
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  // ---- which pairs ----------------------------------------------------------------------------------------------

  /** Of two kept boxes that were compared, each has the pair in its list. */
  const isOf = (pair, box) => pair.kept === box || (pair.outcome === "kept" && pair.other === box);
  const pairsOf = (box) => photo.pairs.map((_, i) => i).filter((i) => isOf(photo.pairs[i], box));

  function listed() {
    const every = photo.pairs.map((_, i) => i);
    if (state.filter === "all") return every;
    return state.filter === "differs" ? every.filter((i) => photo.pairs[i].differs) : pairsOf(state.box);
  }

  // ---- the photograph with the kept boxes -----------------------------------------------------------------------

  function layStage() {
    find("stage").style.setProperty("--aspect", photo.width / photo.height);
    find("photo").src = photo.picture;
    find("photo").alt = `${photo.name}, ${photo.kept} kept boxes`;
    find("boxes").setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
    find("boxes").replaceChildren(...photo.boxes.slice(0, photo.kept).map(drawBox));
  }

  function drawBox(found, index) {
    const mine = pairsOf(index).length;
    const label = `${found.name}, score ${two(found.score)}, ${count(mine, "pair")}`;
    const group = draw("g", { tabindex: 0, role: "button", "aria-label": label, class: mine ? "" : "alone" });
    group.append(...shapes.nodes(found, photo.limbs, ["seam", "line"]));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(index);
      }
    });
    return group;
  }

  function markBoxes() {
    const boxes = find("boxes");
    const pair = photo.pairs[state.pair];
    const [first, second] = pair ? shown(pair) : [state.box, null];
    boxes.classList.toggle("asking", Boolean(photo.kept));
    boxes.querySelectorAll(".partner").forEach((node) => node.remove());
    [...boxes.children].forEach((group, i) => {
      group.classList.toggle("on", i === first);
      group.setAttribute("aria-pressed", String(i === first));
    });
    if (second !== null) boxes.append(...shapes.nodes(photo.boxes[second], photo.limbs, ["partner"]));
  }

  /** The chosen box and the one that it is compared with. */
  function shown(pair) {
    return state.filter === "box" && pair.other === state.box ? [pair.other, pair.kept] : [pair.kept, pair.other];
  }

  /** The smallest box under the pointer; again on the same place, the next larger one. */
  function pinUnder(event) {
    const edge = find("stage").getBoundingClientRect();
    const x = ((event.clientX - edge.left) / edge.width) * photo.width;
    const y = ((event.clientY - edge.top) / edge.height) * photo.height;
    const area = (i) => place(photo.boxes[i].box).width * place(photo.boxes[i].box).height;
    const hits = photo.boxes.slice(0, photo.kept).map((_, i) => i).filter((i) => {
      const [x1, y1, x2, y2] = photo.boxes[i].box;
      return x1 <= x && x <= x2 && y1 <= y && y <= y2;
    }).sort((a, b) => area(a) - area(b));
    if (!hits.length) return;
    const turn = settled === hits.join() ? hits.indexOf(state.box) + 1 : 0;
    settled = hits.join();
    choose(hits[turn % hits.length]);
  }

  // ---- the two panels -------------------------------------------------------------------------------------------

  function mapOf(index) {
    const at = photo.boxes[index].map;
    if (at === null) return null;
    photo.maps[at].values ??= unfold(photo.maps[at]);
    return photo.maps[at];
  }

  const strength = (map) => Math.max(Math.abs(map.low), Math.abs(map.high));

  function scaleOf(map, both) {
    const maps = (state.own ? [map] : both).filter(Boolean);
    const most = Math.max(...maps.map(strength));
    const [low, high] = [Math.min(...maps.map((one) => one.low)), Math.max(...maps.map((one) => one.high))];
    const table = photo.signed ? tables.signed : tables.positive;
    return { low: photo.signed ? -most : low, high: photo.signed ? most : high, signed: photo.signed, table, opacity: state.opacity };
  }

  /** Both boxes and half as much again around them, as shares of the photograph, 4 wide and 3 high where that fits. */
  function closeUp(pair) {
    if (find("whole").checked) return { x: 0, y: 0, w: 1, h: 1 };
    const boxes = [pair.kept, pair.other].map((i) => photo.boxes[i].box);
    const [x1, y1] = [0, 1].map((axis) => Math.min(...boxes.map((box) => box[axis])));
    const [x2, y2] = [2, 3].map((axis) => Math.max(...boxes.map((box) => box[axis])));
    const wide = Math.max((x2 - x1) * 1.6, (y2 - y1) * 2.1, photo.width / 6);
    const [w, h] = [Math.min(photo.width, wide), Math.min(photo.height, wide * 0.75)];
    const x = Math.min(Math.max(0, (x1 + x2 - w) / 2), photo.width - w);
    const y = Math.min(Math.max(0, (y1 + y2 - h) / 2), photo.height - h);
    return { x: x / photo.width, y: y / photo.height, w: w / photo.width, h: h / photo.height };
  }

  function paintPanels() {
    const pair = photo.pairs[state.pair];
    find("panels").hidden = find("numbers").hidden = !pair;
    find("legend").hidden = !pair || !photo.maps.length;
    if (!pair) return;
    const view = closeUp(pair);
    const order = shown(pair);
    const maps = order.map(mapOf);
    [...find("panels").children].forEach((figure, i) => paintPanel(figure, order[i], order[1 - i], maps[i], maps, view));
    const captions = order.map((index) => captionOf(index, pair));
    [...find("panels").children].forEach((figure, i) => figure.querySelector("figcaption").replaceChildren(...captions[i]));
    showLegend(maps);
  }

  function paintPanel(figure, own, other, map, both, view) {
    const image = find("photo");
    const aspect = (view.w * photo.width) / (view.h * photo.height);
    const frame = figure.querySelector(".frame");
    frame.style.setProperty("--aspect", aspect);
    const canvas = frame.querySelector("canvas");
    Object.assign(canvas, { width: 640, height: Math.max(1, Math.round(640 / aspect)) });
    // Not decoded yet: its load event paints again.
    if (image.naturalWidth) {
      const context = canvas.getContext("2d");
      const [nw, nh] = [image.naturalWidth, image.naturalHeight];
      context.filter = find("grey").checked ? "grayscale(1)" : "none";
      context.drawImage(image, view.x * nw, view.y * nh, view.w * nw, view.h * nh, 0, 0, canvas.width, canvas.height);
      context.filter = "none";
      if (map) {
        const drawn = make("canvas", { width: canvas.width, height: canvas.height });
        paint(drawn, map, view, scaleOf(map, both));
        context.drawImage(drawn, 0, 0);
      }
    }
    const svg = frame.querySelector("svg");
    svg.setAttribute("viewBox", [view.x * photo.width, view.y * photo.height, view.w * photo.width, view.h * photo.height].join(" "));
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren(
      ...shapes.nodes(photo.boxes[other], photo.limbs, ["other-seam", "other"]),
      ...shapes.nodes(photo.boxes[own], photo.limbs, ["seam", "own"]),
    );
  }

  function captionOf(index, pair) {
    const { name, score, lowered, map } = photo.boxes[index];
    const fate = index === pair.kept || pair.outcome === "kept" ? "kept" : pair.outcome;
    const after = lowered === null ? "" : `, lowered to ${two(lowered)}`;
    const drawn = map === null ? [] : [" · the map of its class"];
    return [make("b", { textContent: `${fate}: ${name} ${two(score)}${after}` }), ...drawn];
  }

  function showLegend(maps) {
    const [first] = maps;
    find("opacity-value").textContent = `${Math.round(state.opacity * 100)} %`;
    if (!first) return;
    const scale = scaleOf(first, maps);
    paintBar(find("bar"), scale);
    // On their own scales the two maps have other numbers.
    find("low").textContent = state.own ? "lowest" : write(scale.low);
    find("high").textContent = state.own ? "highest" : write(scale.high);
    const peaks = maps.filter(Boolean).map((map) => write(strength(map)));
    find("scale-name").textContent = peaks.length > 1 ? `peaks: ${peaks.join(" and ")}` : "";
  }

  // ---- words and numbers ----------------------------------------------------------------------------------------

  function tell() {
    const pair = photo.pairs[state.pair];
    const verdict = find("verdict");
    if (!pair) {
      verdict.textContent = photo.kept ? "Nothing of this box's class was near it" : "No detections";
      find("meaning").textContent = photo.kept
        ? "No candidate over the score threshold was removed because of it, and no kept box overlaps it much."
        : "No box is above the score threshold.";
      return;
    }
    const words = { removed: "Removed", lowered: "Score lowered under the threshold", kept: "Both kept" };
    const contrast = pair.differs ? `; greedy NMS at IoU ${photo.greedy_iou} would ${pair.outcome === "kept" ? "remove one" : "keep it"}` : "";
    verdict.replaceChildren(make("span", { className: pair.outcome === "kept" ? "" : "no", textContent: words[pair.outcome] }), contrast);
    find("meaning").textContent = `${pair.why}.`;
    const numbers = [["IoU of the boxes", two(pair.iou)]];
    if (photo.compared) numbers.push([photo.compared[0].toUpperCase() + photo.compared.slice(1), two(pair.similarity)]);
    else if (pair.cosine !== null) numbers.push(["Cosine of the maps (not used by this rule)", two(pair.cosine)]);
    const settings = photo.settings.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
    const cells = numbers.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value })));
    const rule = make("div", { className: "settings" }, make("dt", { textContent: photo.rule }), make("dd", { textContent: settings }));
    find("numbers").replaceChildren(...cells, rule);
  }

  function summarize() {
    const keeps = `${photo.rule} keeps ${photo.kept === 1 ? "1 box" : `${photo.kept} boxes`}`;
    const pairs = count(photo.pair_count, "pair");
    const differ = photo.differ_count ? `and decide otherwise about ${photo.differ_count} of ${pairs}` : `and decide the same about ${pairs}`;
    const plain = `greedy NMS at IoU ${photo.greedy_iou} would keep ${photo.greedy_kept}, ${differ}`;
    find("summary").textContent = `${keeps}; ${photo.rule === "NMS" ? pairs : plain}.`;
    const left = photo.pair_count - photo.pairs.length;
    find("left-out").textContent = left ? `The ${photo.pairs.length} most telling pairs; ${left} more in decisions.json.` : "";
    find("differs").textContent = `Unlike greedy NMS (${photo.pairs.filter((pair) => pair.differs).length})`;
    document.querySelector('[name="filter"][value="differs"]').disabled = !photo.pairs.some((pair) => pair.differs);
    find("all").textContent = `All (${photo.pairs.length})`;
    find("compared").textContent = photo.compared.startsWith("distance") ? "distance" : "cosine";
  }

  // ---- the list of pairs ----------------------------------------------------------------------------------------

  function layList() {
    const rows = listed();
    const box = photo.boxes[state.box];
    find("count").textContent = state.filter === "box" && box ? `${box.name} ${two(box.score)} and` : count(rows.length, "pair");
    const none = make("li", { className: "none", textContent: "no pair" });
    find("list").replaceChildren(...(rows.length ? rows.map(layRow) : [none]));
  }

  function layRow(index) {
    const pair = photo.pairs[index];
    const other = state.filter === "box" ? photo.boxes[shown(pair)[1]] : photo.boxes[pair.other];
    const fate = pair.outcome === "kept" ? "kept, too" : pair.outcome;
    const beside = state.filter === "box" ? "" : `, beside ${two(photo.boxes[pair.kept].score)}`;
    const name = make("b", { textContent: other.name }, make("small", { textContent: `${fate}${beside}${pair.differs ? ", unlike greedy NMS" : ""}` }));
    const alike = photo.compared ? pair.similarity : pair.cosine;
    const numbers = [other.score, pair.iou, alike].map((value) => make("span", { textContent: two(value) }));
    const button = make("button", { type: "button", title: pair.why }, name, ...numbers);
    button.addEventListener("click", () => pick(index));
    const row = make("li", { className: pair.differs ? "differs" : "" }, button);
    row.dataset.pair = index;
    return row;
  }

  function markList() {
    for (const row of find("list").children) {
      const here = row.dataset.pair === String(state.pair);
      row.classList.toggle("on", here);
      row.classList.toggle("pinned", here);
      const button = row.querySelector("button");
      if (!button) continue;
      button.tabIndex = here ? 0 : -1;
      button.setAttribute("aria-pressed", String(here));
    }
    for (const input of document.querySelectorAll('input[name="filter"]')) input.checked = input.value === state.filter;
  }

  // ---- one way from a change to the page ------------------------------------------------------------------------

  function show(again) {
    if (again) layList();
    paintPanels();
    tell();
    markBoxes();
    markList();
  }

  /** Take a kept box, with its first pair. */
  function choose(box) {
    Object.assign(state, { box, filter: "box" });
    state.pair = pairsOf(box)[0] ?? null;
    show(true);
  }

  function pick(index) {
    state.pair = index;
    if (state.filter !== "box") state.box = photo.pairs[index].kept;
    show(false);
    reveal(find("list"), find("list").querySelector(".on"));
  }

  function filter(value) {
    state.filter = value;
    const rows = listed();
    state.pair = rows.includes(state.pair) ? state.pair : rows[0] ?? null;
    if (state.pair !== null && value !== "box") state.box = photo.pairs[state.pair].kept;
    show(true);
  }

  function open(index) {
    photo = JSON.parse(bodies[index].textContent);
    find("photo-name").textContent = photo.name;
    find("model").textContent = [photo.model, photo.rule].filter(Boolean).join(" · ");
    settled = null;
    layStage();
    summarize();
    state.photo = index;
    for (const button of document.querySelectorAll("#film button")) {
      const here = Number(button.dataset.photo) === index;
      button.setAttribute("aria-current", String(here));
      if (here) reveal(find("film"), button);
    }
    find("filter").hidden = !photo.pairs.length;
    // The most telling pair comes first.
    choose(photo.pairs.length ? photo.pairs[0].kept : 0);
  }

  /** Scroll `outer`, and never the page, until `inner` can be seen in it. */
  function reveal(outer, inner) {
    if (!inner) return;
    const [frame, part] = [outer.getBoundingClientRect(), inner.getBoundingClientRect()];
    outer.scrollTop += Math.min(0, part.top - frame.top) + Math.max(0, part.bottom - frame.bottom);
    outer.scrollLeft += Math.min(0, part.left - frame.left) + Math.max(0, part.right - frame.right);
  }

  const step = (values, current, by) => values[(Math.max(0, values.indexOf(current)) + by + values.length) % values.length];

  function movePair(by) {
    const inList = document.activeElement?.closest("#list");
    pick(step(listed(), state.pair, by));
    if (inList) find("list").querySelector(".on button").focus({ preventScroll: true });
  }

  function moveBox(by) {
    const inBoxes = document.activeElement?.closest("#boxes");
    choose(step(photo.boxes.slice(0, photo.kept).map((_, i) => i), state.box, by));
    if (inBoxes) find("boxes").children[state.box].focus({ preventScroll: true });
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input")) return;
    const moves = {};
    if (listed().length) Object.assign(moves, { ArrowDown: () => movePair(1), ArrowUp: () => movePair(-1) });
    if (photo.kept) Object.assign(moves, { ArrowRight: () => moveBox(1), ArrowLeft: () => moveBox(-1) });
    const last = bodies.length;
    if (last > 1) Object.assign(moves, { PageDown: () => open((state.photo + 1) % last), PageUp: () => open((state.photo + last - 1) % last) });
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  function listen() {
    find("stage").addEventListener("click", pinUnder);
    find("photo").addEventListener("load", paintPanels);
    find("opacity").addEventListener("input", (event) => {
      state.opacity = event.target.value / 100;
      paintPanels();
    });
    for (const id of ["grey", "whole"]) find(id).addEventListener("change", paintPanels);
    for (const input of document.querySelectorAll('input[name="scale"]')) {
      input.addEventListener("change", () => {
        state.own = input.value === "own";
        paintPanels();
      });
    }
    for (const input of document.querySelectorAll('input[name="filter"]')) input.addEventListener("change", () => filter(input.value));
    for (const button of document.querySelectorAll("#film button")) {
      button.addEventListener("click", () => open(Number(button.dataset.photo)));
    }
    find("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    });
    document.addEventListener("keydown", key);
  }

  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  listen();
  open(0);
})();
