// A study: consent, one question after the other, thanks. An answer counts when the server has said that it is stored.
(() => {
  "use strict";

  const at = (id) => document.getElementById(id);
  const views = ["consent", "question", "done"];
  let key = "", code = "", question = null, started = 0, answer = () => null;

  // ---- light and dark -------------------------------------------------------------------------------------------

  at("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });

  // ---- what is kept on the device: the code alone ---------------------------------------------------------------

  function remember(value) {
    code = value;
    // A browser may refuse storage; then the code on the page is what a person goes on with.
    try {
      if (value) localStorage.setItem(`whybox-study-${key}`, value);
      else localStorage.removeItem(`whybox-study-${key}`);
    } catch { /* as above */ }
    at("mine").textContent = value;
    at("who").hidden = !value;
  }

  function remembered() {
    try { return localStorage.getItem(`whybox-study-${key}`) || ""; } catch { return ""; }
  }

  // ---- the server -----------------------------------------------------------------------------------------------

  async function ask(path, body) {
    let reply;
    try {
      reply = await fetch(path, body === undefined ? {} : {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      throw Object.assign(new Error("The server cannot be reached. Your answer is still here: try again."), { status: 0 });
    }
    const told = await reply.json().catch(() => ({}));
    if (!reply.ok) throw Object.assign(new Error(told.error || "The server could not answer. Try again."), { status: reply.status });
    return told;
  }

  function tell(problem) {
    at("error").textContent = problem;
    at("error").hidden = !problem;
    if (problem) at("error").scrollIntoView({ block: "nearest" });
  }

  function show(view) {
    views.forEach((id) => { at(id).hidden = id !== view; });
    at("bar").hidden = view !== "question";
    if (view !== "question") at("progress").textContent = "";
  }

  function proceed(told) {
    tell("");
    if (told.done) {
      show("done");
      at("thanks").focus();
      return;
    }
    pose(told.question);
  }

  // ---- elements -------------------------------------------------------------------------------------------------

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value; else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const picture = (name, alt) => make("img", { src: `/picture/${name}`, alt, decoding: "async" });

  function radio(group, value, label, name) {
    const input = make("input", { type: "radio", name: group, value });
    if (name) input.setAttribute("aria-label", name);
    return make("label", {}, input, label);
  }

  const chosen = (group) => {
    const input = at("form").querySelector(`input[name="${group}"]:checked`);
    return input ? Number(input.value) : null;
  };

  // ---- forms ----------------------------------------------------------------------------------------------------

  function rank(body, options) {
    const cards = make("div", { class: "cards" });
    const drawn = options.map((option, i) => {
      const marks = make("div", { class: "marks" });
      for (let place = 1; place <= options.length; place++) marks.append(radio(`rank${i}`, place, String(place), `Map ${option.label}, rank ${place}`));
      const note = make("p", { class: "twice-note" });
      const card = make("fieldset", { class: "card" }, make("legend", {}, `Map ${option.label}`), picture(option.picture, `Map ${option.label}`), marks, note);
      // A number key gives the rank of the map where the focus is.
      card.addEventListener("keydown", (event) => {
        const mark = /^[1-9]$/.test(event.key) && marks.querySelector(`input[value="${event.key}"]`);
        if (!mark || event.ctrlKey || event.altKey || event.metaKey) return;
        mark.checked = true;
        mark.focus();
        mark.dispatchEvent(new Event("change", { bubbles: true }));
      });
      cards.append(card);
      return { card, note };
    });
    // A rank given twice is told, and not taken from the other map: the arrow keys pass over ranks on their way.
    const sameAs = (ranks, i) => options.filter((_, j) => j !== i && ranks[i] !== null && ranks[j] === ranks[i]).map((other) => other.label);
    const read = () => options.map((_, i) => chosen(`rank${i}`));
    cards.addEventListener("change", () => {
      const ranks = read();
      drawn.forEach(({ card, note }, i) => {
        const others = sameAs(ranks, i);
        card.classList.toggle("chosen", ranks[i] !== null);
        card.classList.toggle("twice", others.length > 0);
        note.textContent = others.length ? `The same rank as map ${others.join(" and ")}` : "";
      });
    });
    body.append(cards);
    return () => {
      const ranks = read();
      if (ranks.includes(null)) return "Give every map a rank first.";
      return ranks.some((_, i) => sameAs(ranks, i).length) ? "Give every rank once." : { ranks };
    };
  }

  function choose(body, options, confidence, shown) {
    const whole = make("fieldset", {}, make("legend", {}, "Your choice"));
    const cards = make("div", { class: options.some((option) => option.picture) ? "cards" : "marks" });
    const marks = options.map((option, i) => {
      const name = option.picture ? `Map ${option.label}` : option.box ? `Box ${option.label}` : option.label;
      const label = radio("choice", i, name);
      if (option.picture) cards.append(make("div", { class: "card" }, picture(option.picture, name), label));
      else if (options.some((other) => other.picture)) whole.append(label);
      else cards.append(label);
      label.classList.add("choice");
      if (!option.picture && options.some((other) => other.picture)) label.classList.add("alone");
      return label.querySelector("input");
    });
    whole.insertBefore(cards, whole.children[1] || null);
    const boxes = options.some((option) => option.box) ? drawBoxes(shown, options, marks) : () => {};
    whole.addEventListener("change", () => {
      marks.forEach((mark) => mark.closest(".card")?.classList.toggle("chosen", mark.checked));
      boxes();
    });
    body.append(whole);
    if (confidence) {
      const sure = make("div", { class: "marks" });
      for (let step = 1; step <= confidence; step++) sure.append(radio("confidence", step, String(step), `How sure: ${step} of ${confidence}`));
      const ends = make("p", { class: "ends" }, make("span", {}, "1: guessed"), make("span", {}, `${confidence}: certain`));
      body.append(make("fieldset", { class: "sure" }, make("legend", {}, "How sure are you?"), sure, ends));
    }
    return () => {
      const choice = chosen("choice"), sure = confidence ? chosen("confidence") : 0;
      if (choice === null) return "Choose one first.";
      if (sure === null) return "Say how sure you are first.";
      return confidence ? { choice, confidence: sure } : { choice };
    };
  }

  function drawBoxes(figure, options, marks) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 1 1");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const drawn = options.map((option, i) => {
      const [x1, y1, x2, y2] = option.box;
      const group = document.createElementNS(space, "g");
      for (const kind of ["seam", "box"]) {
        const rect = document.createElementNS(space, "rect");
        const sides = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: kind };
        Object.entries(sides).forEach(([name, value]) => rect.setAttribute(name, value));
        group.append(rect);
      }
      const tag = make("span", { class: "tag" }, option.label);
      tag.style.left = `${100 * x1}%`;
      tag.style.top = `${100 * y1}%`;
      group.addEventListener("click", () => { marks[i].checked = true; marks[i].dispatchEvent(new Event("change", { bubbles: true })); });
      return { group, tag, area: (x2 - x1) * (y2 - y1) };
    });
    // The large ones first, so that a small box inside one can be clicked.
    [...drawn].sort((a, b) => b.area - a.area).forEach(({ group }) => svg.append(group));
    figure.firstChild.after(svg, ...drawn.map(({ tag }) => tag));
    return () => drawn.forEach(({ group, tag }, i) => {
      group.classList.toggle("chosen", marks[i].checked);
      tag.classList.toggle("chosen", marks[i].checked);
    });
  }

  function pose(told) {
    question = told;
    show("question");
    at("progress").textContent = `Question ${told.place + 1} of ${told.count}`;
    at("bar").value = told.place / told.count;
    at("ask").textContent = told.ask;
    at("help").textContent = told.help;
    at("instruction").textContent = told.instruction;
    at("instruction").hidden = !told.instruction;
    const body = at("body");
    body.replaceChildren();
    body.dataset.ready = "";
    let shown = null;
    if (told.picture && told.form !== "uncover") {
      const beside = told.options.some((option) => option.picture);
      shown = make("figure", { class: beside ? "shown small" : "shown" }, picture(told.picture, "The picture of this question"));
      if (told.caption) shown.append(make("figcaption", {}, told.caption));
      body.append(shown);
    }
    const forms = {
      rank: () => rank(body, told.options),
      choose: () => choose(body, told.options, told.confidence, shown),
      uncover: () => window.coveredPicture(body, told, { make, picture, next: at("send") }),
    };
    answer = forms[told.form]();
    at("send").disabled = false;
    at("send").textContent = "Next";
    scrollTo(0, 0);
    at("ask").focus({ preventScroll: true });
    // The time counts from when all pictures are there.
    started = 0;
    const pictures = [...body.querySelectorAll("img")];
    Promise.all(pictures.map((image) => image.decode().catch(() => {}))).then(() => {
      if (question !== told) return;
      started = performance.now();
      body.dataset.ready = "yes";
    });
  }

  // ---- what a person does ---------------------------------------------------------------------------------------

  at("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = answer();
    if (typeof given === "string") return tell(given);
    const milliseconds = started ? Math.round(performance.now() - started) : -1;
    at("send").disabled = true;
    at("send").textContent = "Storing …";
    try {
      proceed(await ask("/api/answer", { code, place: question.place, answer: given, milliseconds }));
    } catch (error) {
      at("send").disabled = false;
      at("send").textContent = "Next";
      // Answered in another tab: go on where the person is.
      if (error.status === 409) return resume(code);
      tell(error.message);
    }
  });

  at("begin").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const told = await ask("/api/begin", { agreed: at("agree").checked });
      remember(told.code);
      proceed(told);
    } catch (error) { tell(error.message); }
  });

  at("resume").addEventListener("submit", (event) => {
    event.preventDefault();
    resume(at("code").value.trim().toUpperCase());
  });

  at("leave").addEventListener("click", () => {
    remember("");
    at("agree").checked = false;
    tell("");
    show("consent");
  });

  async function resume(given) {
    try {
      const told = await ask("/api/next", { code: given });
      remember(given);
      proceed(told);
    } catch (error) {
      if (error.status === 404) remember("");
      show("consent");
      tell(error.message);
    }
  }

  async function open() {
    let about;
    try { about = await ask("/api/study"); } catch (error) { return tell(error.message); }
    key = about.key;
    document.title = `${about.title} · whybox`;
    let list = null;
    for (const block of about.consent) {
      if (block.kind !== "item") list = null;
      else if (!list) { list = make("ul"); at("text").append(list); }
      const tag = { heading: "h2", item: "li", paragraph: "p" }[block.kind];
      (list || at("text")).append(make(tag, {}, block.text));
    }
    const known = remembered();
    if (known) await resume(known); else show("consent");
  }

  open();
})();
