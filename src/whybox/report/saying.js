/**
 * What is said of what is shown: the question, what its colors mean, the words of a text, the scale, the details.
 *
 * seen: what is shown, as of `makeView`.
 */
const makeSaying = (page, seen) => {
  const { make, write, writeTime, paintBar, layWord, layText, tint } = heat;
  const { state, photo, active, layer, mapOf, scaleOf, shown, wordsOf, writeScore, peak, strongest } = seen;
  const find = (id) => document.getElementById(id);

  function ask() {
    const question = find("question");
    const index = active();
    const one = layer();
    const count = photo().detections.filter(shown).length;
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
    const { name, score } = photo().detections[index];
    const [before, after = ""] = wordsOf(state.target).question.split("{name}");
    question.replaceChildren(before, make("em", { textContent: name }), after, make("small", { textContent: writeScore(score) }));
    const map = mapOf(one, index);
    find("meaning").textContent = map ? meaning(one, map, noteOf(one, index)) : "";
  }

  const noteOf = (one, index) => one?.notes?.[index] || photo().detections[index].note;

  function meaning(one, map, note) {
    // A note may tell another reason.
    if (map.low === 0 && map.high === 0) return `This map is zero everywhere${note ? "." : ": the method found no evidence for it."}`;
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
    const asked = found.points?.[photo().keypoints.indexOf((state.target ?? "").split(":")[1])];
    const rows = found.corners ? [["Corners", found.corners.map((point) => point.map(Math.round).join(" ")).join(", ")]] : [];
    if (asked) rows.push(["Keypoint", `${Math.round(asked[0])}, ${Math.round(asked[1])}, score ${asked[2].toFixed(2)}`]);
    return rows;
  }

  function showFacts() {
    const index = active();
    const one = layer();
    const rows = [];
    // Of a box that the reader drew, it stands above the photograph.
    const found = index === null ? null : photo().detections[index];
    const note = !found || found.drawn ? "" : noteOf(one, index);
    if (index !== null && !photo().whole) rows.push(["Box", photo().detections[index].box.map((side) => Math.round(side)).join(", ")]);
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
    const times = Object.entries(photo().seconds).map(([name, seconds]) => `${name} ${writeTime(seconds)}`);
    if (one?.seconds) times.push(`these maps ${writeTime(one.seconds)}`);
    if (times.length) rows.push(["Time", times.join(", ")]);
    if (photo().model) rows.push(["Model", photo().model]);
    rows.push(["Image", `${photo().width} × ${photo().height} px`]);
    const list = make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
    find("facts").replaceChildren(...(note ? [make("p", { className: "note", textContent: note })] : []), list);
  }

  /** Say it all. */
  function say() {
    ask();
    showWords();
    showLegend();
    showFacts();
  }

  return { say };
};
