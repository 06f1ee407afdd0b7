(() => {
  "use strict";

  const find = (id) => document.getElementById(id);
  const all = (css) => [...document.querySelectorAll(css)];
  const list = find("cards");
  if (!list) return;

  // ---- cards: in the page, or in scripts beside it ----------------------------------------------------------------

  const index = find("index") && JSON.parse(find("index").textContent);
  const load = index && makeParts(index.folder, 96);
  const inside = () =>
    all(".card").map((node) => ({
      kind: node.dataset.kind,
      classes: node.dataset.classes.trim().split(" "),
      text: node.querySelector("article").textContent.toLowerCase(),
      node,
    }));
  const beside = () => index.cards.map(([kind, classes, text], number) => ({ kind, classes: classes.map(String), text: text.toLowerCase(), number }));
  const cards = index ? beside() : inside();
  const step = index ? index.step : Infinity;

  async function nodeOf(card) {
    if (card.node) return card.node;
    const template = document.createElement("template");
    template.innerHTML = await load("cards", index.each, card.number);
    return template.content.querySelector(".card");
  }

  // ---- choosing and turning ---------------------------------------------------------------------------------------

  let fits = cards;
  let from = 0;
  let turn = 0;

  function filter() {
    const kind = document.querySelector('input[name="kind"]:checked').value;
    const name = find("class").value;
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = (card) => (!kind || card.kind === kind) && (!name || card.classes.includes(name)) && words.every((word) => card.text.includes(word));
    fits = cards.filter(wanted);
    from = 0;
    show();
  }

  async function show() {
    const mine = ++turn;
    try {
      const nodes = await Promise.all(fits.slice(from, from + step).map(nodeOf));
      // Meanwhile something else was asked for.
      if (mine === turn) list.replaceChildren(...nodes);
    } catch (error) {
      if (mine === turn) find("shown").textContent = error.message;
      return;
    }
    if (mine !== turn) return;
    find("shown").textContent = fits.length ? `${fits.length} ${index ? "found" : "shown"}, ${list.dataset.order}` : "none of these";
    for (const turner of all(".turner")) {
      turner.hidden = fits.length <= step;
      turner.querySelector(".at").textContent = `${from + 1}–${Math.min(from + step, fits.length)} of ${fits.length}`;
      turner.querySelector(".back").disabled = from === 0;
      turner.querySelector(".on").disabled = from + step >= fits.length;
    }
  }

  function turnTo(by) {
    const next = from + by * step;
    if (next < 0 || next >= fits.length) return;
    from = next;
    show();
    document.querySelector(".tools").scrollIntoView({ block: "start" });
  }

  function key(event) {
    const searching = event.target === find("search");
    // Again, and the browser searches what is shown.
    if ((event.ctrlKey || event.metaKey) && event.key === "f" && index && !searching) {
      event.preventDefault();
      find("search").select();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select")) return;
    const moves = { "/": () => find("search").select(), ArrowRight: () => turnTo(1), ArrowLeft: () => turnTo(-1) };
    if (!moves[event.key] || (event.key !== "/" && !index)) return;
    event.preventDefault();
    moves[event.key]();
  }

  find("kinds").addEventListener("change", filter);
  find("class").addEventListener("change", filter);
  find("search").addEventListener("input", filter);
  find("heat").addEventListener("change", (event) => list.classList.toggle("no-heat", !event.target.checked));
  for (const button of all(".turner .back")) button.addEventListener("click", () => turnTo(-1));
  for (const button of all(".turner .on")) button.addEventListener("click", () => turnTo(1));
  document.addEventListener("keydown", key);
  filter();
})();
