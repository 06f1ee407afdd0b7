/**
 * Two models side by side on the same image: the pairs of their detections, and both maps of one.
 *
 * source.ask(what, question): the answer of the server. source.asked: what is asked, {image, model, other, texts}.
 * source.compared(): what the models are compared by.
 */
const makeBeside = (view, source) => {
  const { make, paint, unfold } = heat;
  const { asked } = source;
  const find = (id) => document.getElementById(id);
  let beside = null;
  let besideKey = "";

  function showBeside() {
    const photo = view.photo();
    const { method, target, threshold } = view.state;
    find("beside").hidden = !asked.other;
    if (!asked.other) return;
    const key = JSON.stringify([photo.picture, photo.model, asked.other, asked.texts, method, target, threshold]);
    if (key === besideKey) return paintBeside();
    besideKey = key;
    beside = null;
    find("pairs").replaceChildren();
    find("beside-says").textContent = "Comparing …";
    find("beside-name").textContent = asked.other;
    // The pinned map comes first, and a slider that is moved asks once.
    setTimeout(() => key === besideKey && compare(key), 400);
  }

  async function compare(key) {
    try {
      const told = await source.ask("compare", { image: asked.image, ...source.compared() });
      if (key !== besideKey) return;
      beside = told;
      for (const map of told.layer.maps) map.values = unfold(map);
      layPairs();
      paintBeside();
    } catch (error) {
      if (key === besideKey) find("beside-says").textContent = error.message;
    }
  }

  const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits).replace("-", "−"));

  function layPairs() {
    const head = ["detection", asked.model, asked.other, "IoU", "maps alike"].map((textContent) => make("th", { textContent, scope: "col" }));
    const rows = beside.pairs.map((pair) => {
      const button = make("button", { type: "button", textContent: pair.name });
      button.addEventListener("click", () => {
        beside.second = pair.second;
        if (pair.first === null) paintBeside(pair);
        else view.set({ pinned: pair.first, peek: null });
      });
      const cells = [number(pair.scores[0]), number(pair.scores[1]), number(pair.iou), number(pair.correlation)];
      return make("tr", {}, make("th", { scope: "row" }, button), ...cells.map((textContent) => make("td", { textContent })));
    });
    find("pairs").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  }

  function paintBeside(alone = null) {
    const photo = view.photo();
    if (!beside) return;
    const index = view.active();
    const pair = alone ?? beside.pairs.find(({ first }) => first === index && index !== null);
    const stage = find("beside-stage");
    stage.style.aspectRatio = String(photo.width / photo.height);
    stage.style.width = find("stage").style.width;
    if (!find("beside-photo").src.endsWith(photo.picture)) find("beside-photo").src = photo.picture;
    const canvas = find("beside-heat");
    [canvas.width, canvas.height] = [find("heat").width, find("heat").height];
    find("beside-boxes").setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
    find("beside-boxes").replaceChildren();
    [...find("pairs").tBodies[0].rows].forEach((row, i) => row.classList.toggle("on", beside.pairs[i] === pair));
    if (!pair) find("beside-says").textContent = "Choose a detection to see both maps of it.";
    else if (pair.second === null) find("beside-says").textContent = `${asked.other} does not find this ${pair.name}.`;
    else {
      const map = beside.layer.maps[pair.second];
      paint(canvas, map, { x: 0, y: 0, w: 1, h: 1 }, view.scaleOf(beside.layer, map));
      find("beside-boxes").append(...shapes.nodes(beside.detections[pair.second], photo.limbs, ["seam", "line"]));
      const alike = pair.correlation === null ? "" : `, correlation of the maps ${number(pair.correlation)}`;
      find("beside-says").textContent = pair.first === null
        ? `${asked.model} does not find this ${pair.name}.`
        : `Score ${number(pair.scores[0])} and ${number(pair.scores[1])}${alike}.`;
    }
  }

  return { show: showBeside };
};
