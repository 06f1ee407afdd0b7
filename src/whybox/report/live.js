/** The live page: what is looked at is asked of the server, and kept. */
(async () => {
  const { make } = heat;
  const find = (id) => document.getElementById(id);
  const start = await (await fetch("api/start")).json();
  const models = new Map(start.models.map((model) => [model.name, model]));
  const asked = { image: null, model: start.models[0].name, other: "", texts: start.texts };
  const view = makeView(start.page, { move: (by) => film.move(by), turn: (target) => choose({ target }), changed });
  const { ask, waitFor, stop, trouble, waiting } = makeAsking(() => view.photo() && changed());
  const drawing = makeDrawing(view);
  const beside = makeBeside(view, { ask, asked, compared });
  const missed = makeMissed(view, { asked, waitFor, trouble, drawing, choose, model });
  const { keep } = makeTaking(view, { asked, waitFor, trouble });

  // ---- images ---------------------------------------------------------------------------------------------------

  /** The timer of the next question about maps. */
  let soon = null;
  const images = start.names.map((name, index) => ({ id: String(index), name }));
  const film = makeFilm(images, { thumb: ({ id }) => `thumb/${id}`, open: openImage });
  const changes = makeChanges({ ask, trouble, settings: compared, images: () => images, order: (order) => film.lay(order ?? images) });

  /** What two models are compared by over all images. */
  function compared() {
    const { model, other, texts } = asked;
    const { method, target, threshold } = view.state;
    return { model, other, texts, method, target, threshold: threshold ?? 0 };
  }

  /** Photos with their maps, those that were looked at last. */
  const photos = new Map();
  const MOST_PHOTOS = 24;
  const photoKey = () => JSON.stringify([asked.image, asked.model, models.get(asked.model).takes_text ? asked.texts : []]);

  /** The key of the photo that is being opened: no map of another one may take its place in the queue. */
  let opening = null;

  async function openImage(id) {
    asked.image = id;
    clearTimeout(soon);
    film.show(id);
    history.replaceState(null, "", `#${id}`);
    const key = photoKey();
    let photo = photos.get(key);
    trouble(null);
    if (!photo) {
      opening = key;
      try {
        const { model, texts } = asked;
        photo = await waitFor("Looking at the image", "detect", { image: id, model, texts });
      } catch (error) {
        if (key === photoKey()) trouble(error);
        return;
      } finally {
        if (opening === key) opening = null;
      }
    } else {
      opening = null;
      stop();
    }
    photos.delete(key);
    photos.set(key, photo);
    if (photos.size > MOST_PHOTOS) photos.delete(photos.keys().next().value);
    if (key === photoKey()) show(photo);
  }

  /** Add pictures, one after the other, and open the last one; one that cannot be read does not keep the others out. */
  async function upload(files) {
    trouble(null);
    let [added, failed] = [null, null];
    for (const file of files) {
      try {
        added = await send(file);
      } catch (error) {
        failed = error;
      }
    }
    if (added !== null) {
      find("search").value = "";
      changes.leave(asked.other);
      film.lay();
      await openImage(added);
    }
    if (failed) trouble(failed);
  }

  async function send(file) {
    const answer = await fetch(`api/upload?name=${encodeURIComponent(file.name || "pasted")}`, { method: "POST", body: file });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    images.unshift({ id: told.image, name: told.name });
    return told.image;
  }

  // ---- choosing -------------------------------------------------------------------------------------------------

  const CONTRAST = "contrast:";
  function model() {
    return models.get(asked.model);
  }

  const methodOf = (name) => model().methods.find((one) => one.name === name);
  const classes = (photo) => photo?.classes ?? model().classes;

  function wordsFor(photo, target) {
    const other = target.slice(CONTRAST.length);
    if (target.startsWith(CONTRAST)) {
      return { label: `Not ${other}`, question: `Why {name} and not ${other}?`, meaning: "Brighter: what tells the two classes apart.", side: "" };
    }
    return model().targets[target] ?? photo.words?.[target] ?? { label: target, question: "Why {name}?", meaning: "", side: "" };
  }

  /** What is offered for the method. */
  function offered(photo, method) {
    const targets = photo.all ?? [];
    return methodOf(method)?.targets ? targets.filter((target) => methodOf(method).targets.includes(target)) : targets;
  }

  function choose(change) {
    const photo = view.photo();
    const want = { target: view.state.target, method: view.state.method, place: view.state.place, ...change };
    if (!methodOf(want.method)) want.method = model().method;
    const method = methodOf(want.method);
    if (!method) return trouble(new Error(`${asked.model} has no method that draws maps`));
    if (!method.layers || !model().layers.includes(want.place)) want.place = "";
    if (photo) {
      const known = offered(photo, want.method);
      const contrast = want.target?.startsWith(CONTRAST) && !method.targets && classes(photo).includes(want.target.slice(CONTRAST.length));
      if (!known.includes(want.target) && !contrast) want.target = known.includes(model().target) ? model().target : known[0];
      photo.targets = known;
      ensure(photo, want);
    }
    view.set(want);
    markChoices();
  }

  /** A layer whose maps are not there yet. */
  function ensure(photo, { target, method, place }) {
    if (photo.layers.some((one) => one.target === target && one.method === method && one.place === place)) return;
    const maps = photo.detections.map(() => null);
    photo.methods[method] ??= methodOf(method).title;
    photo.layers.push({ method, target, place, words: wordsFor(photo, target), options: "", seconds: 0, signed: false, low: 0, high: 0, maps });
  }

  function show(photo) {
    photo.all ??= photo.targets;
    view.state.threshold = model().whole_image ? null : Number(find("threshold").value);
    Object.assign(view.state, { peek: null, pinned: null });
    // Before it is shown, so that there is something to show it by.
    const { target, method, place } = view.state;
    const want = { target, method: methodOf(method) ? method : model().method, place: model().layers.includes(place) ? place : "" };
    if (!offered(photo, want.method).includes(want.target)) want.target = model().target;
    photo.targets = offered(photo, want.method);
    ensure(photo, want);
    Object.assign(view.state, want);
    view.open(photo);
    document.title = `${photo.name} · whybox`;
    layClasses(photo);
    markChoices();
    if (photo.waits) {
      find("question").textContent = "What should be looked for?";
      find("meaning").textContent = "This model answers to texts: write one on each line.";
      find("texts").focus();
    }
  }

  const option = (value, textContent = value) => make("option", { value, textContent });

  function layModels() {
    find("pick-model").replaceChildren(...[...models.keys()].map((name) => option(name)));
    find("row-model").hidden = models.size < 2;
    find("row-other").hidden = models.size < 2;
    layModel();
  }

  /** What the model offers. */
  function layModel() {
    find("pick-model").value = asked.model;
    const others = [...models.keys()].filter((name) => name !== asked.model);
    if (!others.includes(asked.other)) asked.other = "";
    find("pick-other").replaceChildren(option("", "none"), ...others.map((name) => option(name)));
    find("pick-other").value = asked.other;
    changes.leave(asked.other);
    find("pick-method").replaceChildren(...model().methods.map(({ name, title }) => option(name, title)));
    find("pick-layer").replaceChildren(option("", "the model's own choice"), ...model().layers.map((name) => option(name)));
    find("asking").hidden = !model().takes_text;
    find("drawing").hidden = model().whole_image;
    find("row-threshold").hidden = model().whole_image;
    find("threshold").min = String(model().floor);
    find("texts").value = asked.texts.join("\n");
  }

  function layClasses(photo) {
    const names = classes(photo);
    find("pick-contrast").replaceChildren(...names.map((name) => option(name)));
    find("box-class").replaceChildren(option("", "any class"), ...names.map((name) => option(name)));
  }

  function markChoices() {
    const { target, method, place } = view.state;
    const photo = view.photo();
    if (!photo || target === null) return;
    const contrast = target.startsWith(CONTRAST);
    const known = offered(photo, method).map((name) => option(name, wordsFor(photo, name).label));
    const others = methodOf(method)?.targets || classes(photo).length < 2 ? [] : [option(CONTRAST, `This ${photo.whole?.[0] ?? "class"} and not another`)];
    find("pick-target").replaceChildren(...known, ...others);
    find("pick-target").value = contrast ? CONTRAST : target;
    find("row-contrast").hidden = !contrast;
    if (contrast) find("pick-contrast").value = target.slice(CONTRAST.length);
    find("pick-method").value = method;
    find("row-layer").hidden = !methodOf(method)?.layers || model().layers.length < 2;
    find("pick-layer").value = place;
  }

  /** A class to tell the shown one from: the one that was given last, or another than its own. */
  function another() {
    const own = view.photo()?.detections[view.active() ?? 0];
    const names = classes(view.photo()).filter((name) => name !== own?.name);
    return own?.rival || names[0] || "";
  }

  // ---- maps -----------------------------------------------------------------------------------------------------

  let failed = "";
  let wished = "";
  const QUICK = 0.5;
  const AHEAD = 6;
  const MOST_AHEAD = 48;

  const wishOf = (photo, one, indices) => JSON.stringify([photo.name, photo.picture, photo.model, one.method, one.target, one.place, indices]);

  function changed() {
    const photo = view.photo();
    find("threshold-value").textContent = view.state.threshold === null ? "" : view.state.threshold.toFixed(2);
    const index = view.active();
    const one = view.layer();
    missed.showAdvice(index);
    beside.show();
    clearTimeout(soon);
    if (index === null || !one || photo.waits) return;
    if (!view.mapOf(one, index)) {
      // Who moves over boxes does not want all of them.
      soon = setTimeout(() => fetchMaps(photo, one, rowsFor(photo, one, index)), view.state.peek === null ? 0 : 90);
    } else if (one.quick && !waiting()) soon = setTimeout(() => fetchAhead(photo, one), 60);
  }

  /** Methods that run the model thousands of times give the maps of all detections in one go. */
  function rowsFor(photo, one, index) {
    if (photo.detections[index].drawn || !methodOf(one.method).slow) return [index];
    const rest = photo.detections.map((found, i) => i).filter((i) => i !== index && !one.maps[i] && !photo.detections[i].drawn && view.shown(photo.detections[i]));
    return [index, ...rest].slice(0, 300);
  }

  /** The maps of the others, while nothing else is asked: strengths can be compared, and hovering is instant. */
  function fetchAhead(photo, one) {
    const rows = photo.detections.map((found, i) => i).filter((i) => !photo.detections[i].drawn && view.shown(photo.detections[i])).slice(0, MOST_AHEAD);
    const missing = rows.filter((i) => !one.maps[i]).slice(0, AHEAD);
    if (missing.length && photo === view.photo() && one === view.layer()) fetchMaps(photo, one, missing, true);
  }

  async function fetchMaps(photo, one, rows, ahead = false) {
    const wish = wishOf(photo, one, rows);
    const busy = waiting();
    if (opening || busy?.firm || (ahead && busy) || wish === failed || (wish === wished && busy)) return;
    [wished, failed] = [wish, ""];
    const { drawn } = photo.detections[rows[0]];
    const { image, texts } = asked;
    const question = { image, model: photo.model, texts, method: one.method, target: one.target, threshold: view.state.threshold ?? 0 };
    const which = drawn ? { drawn: [drawn] } : { rows };
    try {
      const what = `${methodOf(one.method).title} is drawing`;
      const told = await waitFor(what, "map", { ...question, layer: one.place || null, ...which }, { quiet: ahead });
      one.quick = !methodOf(one.method).slow && told.seconds / rows.length < QUICK;
      take(photo, one, rows, told);
      if (!ahead) trouble(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      failed = wish;
      trouble(error);
    }
  }

  function take(photo, one, rows, told) {
    rows.forEach((index, at) => {
      one.maps[index] = told.maps[at];
      const found = photo.detections[index];
      (one.notes ??= [])[index] = told.notes[at];
      if (told.texts[at]) (one.texts ??= [])[index] = told.texts[at];
    });
    const there = one.maps.filter(Boolean);
    const [low, high] = [Math.min(...there.map((map) => map.low)), Math.max(...there.map((map) => map.high))];
    // As `is_signed` in overlay.py.
    Object.assign(one, { options: told.options, seconds: told.seconds, low, high, signed: low < 0 && -low > 0.01 * high });
    if (told.words.meaning) one.words = told.words;
    if (photo !== view.photo()) return;
    if (there.length === rows.length) view.laySheet();
    view.show();
  }

  // ---- events ---------------------------------------------------------------------------------------------------

  const again = () => asked.image !== null && openImage(asked.image);

  function listen() {
    find("upload").addEventListener("change", (event) => {
      upload([...event.target.files]);
      event.target.value = "";
    });
    find("pick-model").addEventListener("change", (event) => {
      const kind = model().kind;
      asked.model = event.target.value;
      // What was chosen stays where both models can do it; of another kind of model, something else is asked first.
      if (kind !== model().kind) Object.assign(view.state, { method: null, target: null, place: "" });
      layModel();
      again();
    });
    find("pick-other").addEventListener("change", (event) => {
      asked.other = event.target.value;
      changes.leave(asked.other);
      if (view.photo()) view.show();
    });
    find("pick-target").addEventListener("change", ({ target: { value } }) => choose({ target: value === CONTRAST ? CONTRAST + another() : value }));
    find("pick-contrast").addEventListener("change", (event) => choose({ target: CONTRAST + event.target.value }));
    find("pick-method").addEventListener("change", (event) => choose({ method: event.target.value }));
    find("pick-layer").addEventListener("change", (event) => choose({ place: event.target.value }));
    find("threshold").addEventListener("input", (event) => view.set({ threshold: Number(event.target.value) }));
    find("asking").addEventListener("submit", (event) => {
      event.preventDefault();
      asked.texts = find("texts").value.split("\n").map((text) => text.trim()).filter(Boolean).slice(0, 100);
      again();
    });
    find("box-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (view.photo()) missed.askMissed();
    });
    find("cancel").addEventListener("click", () => {
      failed = wished;
      stop();
    });
    find("keep-json").addEventListener("click", () => keep("json"));
    find("keep-page").addEventListener("click", () => keep("page"));
    document.addEventListener("keydown", key);
    document.addEventListener("paste", (event) => upload([...event.clipboardData.files].filter((file) => file.type.startsWith("image/"))));
    const over = (event, on) => {
      event.preventDefault();
      find("drop").hidden = !on;
    };
    document.addEventListener("dragover", (event) => over(event, true));
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(event, false));
    document.addEventListener("drop", (event) => {
      over(event, false);
      upload([...event.dataTransfer.files]);
    });
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select, textarea")) return;
    if (event.key !== "b" || find("drawing").hidden) return;
    event.preventDefault();
    drawing.open();
  }

  find("threshold").value = "0.3";
  layModels();
  listen();
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = images.some(({ id }) => id === wanted) ? wanted : images[0]?.id;
  if (first !== undefined) openImage(first);
  else {
    find("question").textContent = "Drop a picture here, paste one, or add a file";
    find("legend").hidden = true;
    document.querySelector(".found").hidden = true;
  }
})();
