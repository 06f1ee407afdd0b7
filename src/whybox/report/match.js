(() => {
  const { bytes, make, write, writeTime, paint, paintBar, writeShare, weigh, tint } = heat;
  const find = (id) => document.getElementById(id);
  const page = JSON.parse(find("page").textContent);
  const match = JSON.parse(find("match").textContent);
  const table = bytes(match.signed ? page.signed : page.positive);
  const many = match.texts.length > 1;
  const state = { text: 0, word: null, peek: null, own: false, opacity: 0.85 };

  /** The part of the photograph that the model saw, as shares of the photograph, and the same part as shares of a map. */
  const seen = (() => {
    const [x, y, w, h] = match.area;
    const [left, top] = [Math.max(0, x), Math.max(0, y)];
    return { x: left, y: top, w: Math.min(1, x + w) - left, h: Math.min(1, y + h) - top };
  })();
  const [kind, kinds] = match.score === "cosine" ? ["text", "texts"] : ["class", "classes"];
  const view = (() => {
    const [x, y, w, h] = match.area;
    return { x: (seen.x - x) / w, y: (seen.y - y) / h, w: seen.w / w, h: seen.h / h };
  })();
  const cropped = seen.w < 0.999 || seen.h < 0.999;

  const writeScore = (score) => (score === null ? "–" : score.toFixed(3).replace("-", "−"));
  /** What is nothing beside the range is written as 0. */
  const writeEnd = (value, { low, high }) => write(Math.abs(value) < 1e-6 * (high - low) ? 0 : value);
  const wordsOf = (text) => heat.wordsOf(text.pieces);

  for (const one of [...match.texts, ...match.words]) one.map.values = bytes(one.map.data);

  // ---- what is shown --------------------------------------------------------------------------------------------

  /** {text, word}: a text's row, and the place of one of its words, or null. */
  const active = () => state.peek ?? { text: state.text, word: state.word };

  const wordOf = ({ text, word }) => (word === null ? null : wordsOf(match.texts[text])[word]);

  /** What has the map that is drawn: the word asked alone, else the text. */
  function drawn(choice) {
    const word = wordOf(choice);
    return match.words[word?.alone ?? -1] ?? match.texts[choice.text];
  }

  function scaleOf(map) {
    const [low, high] = state.own ? [map.low, map.high] : [match.low, match.high];
    const most = Math.max(Math.abs(low), Math.abs(high));
    const signed = match.signed;
    return { low: signed ? -most : low, high: signed ? most : high, signed, table, opacity: state.opacity };
  }

  const peak = (map) => Math.max(Math.abs(map.low), Math.abs(map.high));
  const strongest = Math.max(...match.texts.map((text) => peak(text.map)));

  // ---- the photograph -------------------------------------------------------------------------------------------

  const share = (part) => `${part * 100}%`;

  function layStage() {
    const stage = find("stage");
    stage.style.setProperty("--aspect", match.width / match.height);
    const scale = Math.min(1, 720 / Math.max(match.width, match.height));
    const canvas = find("heat");
    canvas.width = Math.max(1, Math.round(match.width * scale * seen.w));
    canvas.height = Math.max(1, Math.round(match.height * scale * seen.h));
    Object.assign(canvas.style, { left: share(seen.x), top: share(seen.y), width: share(seen.w), height: share(seen.h) });
    find("photo").src = match.picture;
    find("photo").alt = match.name;
    find("unseen").hidden = !cropped;
    const [x1, y1, x2, y2] = [seen.x, seen.y, seen.x + seen.w, seen.y + seen.h].map(share);
    find("unseen").style.clipPath =
      `polygon(evenodd, 0 0, 100% 0, 100% 100%, 0 100%, 0 0, ${x1} ${y1}, ${x2} ${y1}, ${x2} ${y2}, ${x1} ${y2}, ${x1} ${y1})`;
    find("crop").hidden = !cropped;
    find("crop").textContent = "Hatched: cropped away by the model's preprocessing; maps have no values there.";
  }

  function paintStage() {
    const { map } = drawn(active());
    paint(find("heat"), map, view, scaleOf(map));
  }

  // ---- words about it -------------------------------------------------------------------------------------------

  function ask() {
    const choice = active();
    const text = match.texts[choice.text];
    const word = wordOf(choice);
    const one = drawn(choice);
    const name = make("em", { textContent: shorten(word && one === text ? word.text : one.name), dir: "auto" });
    const score = make("small", { textContent: `${match.score} ${writeScore(one.score)}` });
    if (word && one === text) find("question").replaceChildren("How much does ", name, " weigh?");
    else find("question").replaceChildren("What speaks for ", name, word ? " alone?" : "?", score);
    find("question").classList.toggle("long", find("question").textContent.length > 70);
    find("meaning").textContent = [word ? weigh(word) : "", one === text && word ? "" : meaning(one.map, one.note)].filter(Boolean).join(" ");
    holdHeight(document.querySelector(".ask"));
  }

  /** What has grown stays so high: the photograph below must not jump while words are pointed at. */
  function holdHeight(block) {
    block.style.minHeight = `${block.offsetHeight}px`;
  }

  const shorten = (text) => (text.length > 140 ? `${text.slice(0, 139)}…` : text);

  function meaning(map, note) {
    // A note may tell another reason.
    if (map.low === 0 && map.high === 0) return `This map is zero everywhere${note ? "." : ": the method found no evidence for it."}`;
    if (map.high === map.low) return "This map has the same value everywhere.";
    const value = match.target === "score" ? match.score : match.target;
    const sentence = `more weight for the ${value}, as ${page.methods[match.method] || match.method} counts it.`;
    return match.signed ? `Red: ${sentence} Blue: against it.` : `Brighter: ${sentence}`;
  }

  function showLegend() {
    const one = drawn(active());
    const scale = scaleOf(one.map);
    find("low").textContent = writeEnd(scale.low, scale);
    find("high").textContent = writeEnd(scale.high, scale);
    paintBar(find("bar"), scale);
    const place = (value) => Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
    find("reach").hidden = state.own || scale.high === scale.low;
    find("reach").style.left = share(place(one.map.low));
    find("reach").style.width = share(place(one.map.high) - place(one.map.low));
    find("strength").textContent = compare(one);
    find("opacity-value").textContent = `${Math.round(state.opacity * 100)} %`;
  }

  function compare(one) {
    if (strongest === 0) return many ? `The maps of all ${kinds} are zero.` : "";
    const part = peak(one.map) / strongest;
    if (match.texts.includes(one) && (part === 1 || !many)) return many ? "The strongest of these maps." : "";
    const size = part < 0.01 ? "less than 1" : Math.round(part * 100);
    return `Peaks at ${size} % of ${many ? `the strongest ${kind}'s map` : `the ${kind}'s map`}.`;
  }

  function showFacts() {
    const { text } = active();
    const one = match.texts[text];
    const [rows, columns] = one.map.grid;
    const times = Object.entries(match.seconds).filter(([, seconds]) => seconds !== null);
    const facts = [
      ["Method", page.methods[match.method] || match.method],
      ...(match.target === "score" ? [] : [["Target", match.target]]),
      ...match.options,
      ...(one.explained ? [["Score", `explained by the method: ${writeScore(one.explained[0])}; the model's own: ${writeScore(one.explained[1])}`]] : []),
      ["Raw values", `${writeEnd(one.map.low, one.map)} to ${writeEnd(one.map.high, one.map)}`],
      ["Image", `${match.width} × ${match.height} px`],
      ["Model's input", `${match.network[1]} × ${match.network[0]} px, a map of ${columns} × ${rows} cells`],
      ["Model", match.model],
      ["Time", times.map(([name, seconds]) => `${name} ${writeTime(seconds)}`).join(", ")],
    ].filter(([, value]) => value);
    const list = facts.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]);
    find("facts").replaceChildren(make("dl", {}, ...list));
  }

  // ---- the texts and their words --------------------------------------------------------------------------------

  function layList() {
    const worded = match.texts.some((text) => wordsOf(text).length);
    find("count").textContent = many ? `${match.texts.length} ${kinds}` : `1 ${kind}`;
    if (worded) {
      find("count").append(make("small", { textContent: "Under each word: its share of the text's weight, in %." }));
    }
    find("one-scale").textContent = many ? `One scale for all ${kinds}` : `The ${kind}'s scale`;
    document.querySelector(".scale").hidden = !many && !match.words.length;
    find("text-keys").hidden = !many;
    find("text-keys").append(kind);
    find("word-keys").hidden = !worded;
    find("texts").replaceChildren(...match.texts.map(layText));
  }

  function layText(text, index) {
    let count = 0;
    const said = make("p", { className: "said", dir: "auto" }, ...heat.layText(text.pieces, (word) => layWord(word, index, count++)));
    const numbers = make("button", { type: "button", className: "pick" }, ...layNumbers(text));
    numbers.setAttribute("aria-label", `${text.name}: ${match.score} ${writeScore(text.score)}, peak ${write(text.peak)}`);
    numbers.addEventListener("click", () => set({ text: index, word: null, peek: null }));
    const note = text.note ? [make("p", { className: "note", textContent: text.note })] : [];
    const row = make("li", {}, said, numbers, ...note);
    // A finger does not hover: before its tap, it would peek at what the tap pins.
    row.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && set({ peek: { text: index, word: null } }));
    row.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && set({ peek: null }));
    row.addEventListener("click", (event) => !event.target.closest("button") && set({ text: index, word: null, peek: null }));
    return row;
  }

  function layNumbers(text) {
    const meter = make("span", { className: "meter" }, make("i"));
    const most = Math.max(...match.texts.map((one) => one.peak));
    meter.firstChild.style.width = most > 0 ? share(Math.max(0, text.peak) / most) : "0";
    return [
      make("span", {}, `${match.score} `, make("b", { textContent: writeScore(text.score) })),
      make("span", { title: "The largest raw value of the map; small where the image has no evidence for it." }, "peak ", make("b", { textContent: write(text.peak) })),
      meter,
    ];
  }

  function layWord(word, text, place) {
    const button = heat.layWord("button", word);
    button.type = "button";
    button.setAttribute("aria-label", `${word.text}, weight ${write(word.weight)}, ${writeShare(word.share)}`);
    const choice = { text, word: place };
    const leave = () => set({ peek: null });
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && set({ peek: choice }));
    button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && set({ peek: { text, word: null } }));
    button.addEventListener("focus", () => button.matches(":focus-visible") && set({ peek: choice }));
    button.addEventListener("blur", leave);
    button.addEventListener("click", () => pin(choice));
    return button;
  }

  /** Hold a word; the held one is let go. */
  function pin({ text, word }) {
    const held = state.text === text && state.word === word;
    set({ text, word: held ? null : word, peek: null });
  }

  function markList() {
    const choice = active();
    const weights = match.texts.map((text) => Math.max(0, ...wordsOf(text).map((word) => Math.abs(word.weight))));
    const most = Math.max(...weights);
    [...find("texts").children].forEach((row, i) => {
      row.classList.toggle("on", i === choice.text);
      row.classList.toggle("held", many && i === state.text);
      row.querySelector(".pick").setAttribute("aria-pressed", String(i === state.text && state.word === null));
      row.querySelectorAll(".word").forEach((button, place) => {
        tint(button, wordsOf(match.texts[i])[place], state.own ? weights[i] : most);
        button.classList.toggle("on", i === choice.text && place === choice.word);
        button.setAttribute("aria-pressed", String(i === state.text && place === state.word));
      });
    });
  }

  // ---- side by side ---------------------------------------------------------------------------------------------

  function thumb(one, choice) {
    const width = 208;
    const canvas = make("canvas", { width, height: Math.max(1, Math.round((width * match.height) / match.width)) });
    canvas.style.aspectRatio = String(match.width / match.height);
    const button = make("button", { type: "button", title: one.name }, canvas, make("span", { textContent: one.name, dir: "auto" }));
    Object.assign(button, { one, choice });
    button.addEventListener("click", () => set({ ...choice, peek: null }));
    return button;
  }

  function laySheet() {
    const { text } = active();
    const texts = many ? match.texts.map((one, i) => thumb(one, { text: i, word: null })) : [];
    const words = match.words.length ? wordsOf(match.texts[text]).map((word, place) => [word, { text, word: place }]) : [];
    const firsts = words.filter(([word], i) => word.alone !== null && words.findIndex(([other]) => other.alone === word.alone) === i);
    const alone = firsts.map(([, choice]) => thumb(drawn(choice), choice));
    const rows = [[`All ${kinds}`, texts], ["Its words, each explained alone", alone]];
    const laid = rows.filter(([, buttons]) => buttons.length).map(([title, buttons]) =>
      make("div", { className: "row" }, make("h3", { textContent: title }), make("div", {}, ...buttons)));
    find("sheet").replaceChildren(...laid);
    find("sheet").text = text;
  }

  let painted = null;

  function paintSheet() {
    const choice = active();
    if (find("sheet").text !== choice.text) laySheet();
    const look = JSON.stringify([choice.text, state.own, state.opacity, find("grey").checked, find("photo").naturalWidth]);
    for (const button of find("sheet").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.one === drawn(choice)));
      if (look !== painted) compose(button.querySelector("canvas"), button.one.map);
    }
    painted = look;
  }

  /** Photograph, hatching and heat on one canvas. */
  function compose(canvas, map) {
    const image = find("photo");
    // Not decoded yet: its load event paints again.
    if (!image.naturalWidth) return;
    const { width, height } = canvas;
    const context = canvas.getContext("2d");
    context.filter = find("grey").checked ? "grayscale(1)" : "none";
    context.drawImage(image, 0, 0, width, height);
    context.filter = "none";
    const part = [seen.x * width, seen.y * height, seen.w * width, seen.h * height];
    if (cropped) hatch(context, width, height, part);
    const layer = make("canvas", { width: Math.max(1, Math.round(part[2])), height: Math.max(1, Math.round(part[3])) });
    paint(layer, map, view, scaleOf(map));
    context.drawImage(layer, ...part);
  }

  function hatch(context, width, height, part) {
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...part);
    context.clip("evenodd");
    context.fillStyle = "rgba(12,13,17,.55)";
    context.fillRect(0, 0, width, height);
    context.strokeStyle = "rgba(255,255,255,.3)";
    for (let x = -height; x < width; x += 9) {
      context.beginPath();
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
      context.stroke();
    }
    context.restore();
  }

  /** The view as a PNG in the photograph's stored size. */
  function keep() {
    const image = find("photo");
    const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const choice = active();
    compose(canvas, drawn(choice).map);
    const words = [match.name.replace(/\.[^.]*$/, ""), drawn(choice).name.slice(0, 60), match.method];
    make("a", { href: canvas.toDataURL("image/png"), download: `${words.join("-")}.png` }).click();
  }

  // ---- one way from a change to the page ------------------------------------------------------------------------

  function set(change) {
    Object.assign(state, change);
    show();
  }

  function show() {
    paintStage();
    ask();
    showLegend();
    showFacts();
    markList();
    paintSheet();
  }

  function moveText(by) {
    set({ text: (active().text + by + match.texts.length) % match.texts.length, word: null, peek: null });
  }

  /** To the next word of the text; beyond its last and before its first, to the text itself. */
  function moveWord(by) {
    const { text, word } = active();
    const count = wordsOf(match.texts[text]).length + 1;
    const next = ((word ?? -1) + 1 + by + count) % count;
    set({ text, word: next === 0 ? null : next - 1, peek: null });
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input")) return;
    const moves = { Escape: () => set({ word: null, peek: null }) };
    if (many) Object.assign(moves, { ArrowDown: () => moveText(1), ArrowUp: () => moveText(-1) });
    if (wordsOf(match.texts[active().text]).length) Object.assign(moves, { ArrowRight: () => moveWord(1), ArrowLeft: () => moveWord(-1) });
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  function listen() {
    find("photo").addEventListener("load", paintSheet);
    find("opacity").addEventListener("input", (event) => set({ opacity: event.target.value / 100 }));
    find("grey").addEventListener("change", (event) => {
      find("stage").classList.toggle("grey", event.target.checked);
      paintSheet();
    });
    for (const input of document.querySelectorAll('input[name="scale"]')) {
      input.checked = input.value === "one";
      input.addEventListener("change", () => set({ own: input.value === "own" }));
    }
    find("keep").addEventListener("click", keep);
    find("theme").addEventListener("click", () => {
      document.documentElement.dataset.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    });
    document.addEventListener("keydown", key);
    addEventListener("resize", () => { document.querySelector(".ask").style.minHeight = ""; });
  }

  document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  find("photo-name").textContent = match.name;
  find("model").textContent = [match.model, page.methods[match.method] || match.method].filter(Boolean).join(" · ");
  layStage();
  layList();
  listen();
  show();
})();
