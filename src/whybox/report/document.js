"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  root.classList.add("live");

  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // ---- the table ------------------------------------------------------------------------------------------------

  const table = document.getElementById("scores");
  let sorted = { column: null, way: 1 };

  function chooseView(view) {
    table.dataset.view = view;
    if (sorted.column !== null) sort();
  }

  /** Best first; a second click reverses the order. Methods and controls stay separate. */
  function sort() {
    for (const band of table.tBodies) {
      const lines = all("tr.line", band);
      const value = (line) => {
        const text = line.cells[sorted.column].dataset[table.dataset.view];
        return text === "" ? null : Number(text);
      };
      lines.sort((a, b) => {
        const [left, right] = [value(a), value(b)];
        // Rows without a number stay at the end, whatever the direction.
        if (left === null || right === null) return (left === null) - (right === null);
        return sorted.way * (right - left);
      });
      band.append(...lines);
    }
    all("thead th", table).forEach((head, i) => {
      if (i !== sorted.column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", sorted.way === 1 ? "descending" : "ascending");
    });
  }

  if (table) {
    all(".sort", table).forEach((button) => {
      button.addEventListener("click", () => {
        const column = button.closest("th").cellIndex;
        sorted = { column, way: sorted.column === column ? -sorted.way : 1 };
        sort();
      });
    });
    all('input[name="view"]').forEach((input) => input.addEventListener("change", () => chooseView(input.value)));
  }

  // ---- copying --------------------------------------------------------------------------------------------------

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy);
    // In any case: where neither way below works, Ctrl+C is left.
    text.select();
    let done = false;
    try {
      await navigator.clipboard.writeText(text.value);
      done = true;
    } catch {
      // There is no navigator.clipboard where the page is not served securely, and it may be refused.
      done = document.execCommand("copy");
    }
    const words = button.textContent;
    button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => { button.textContent = words; }, 1600);
  }

  all("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(button)));

  // ---- curves ---------------------------------------------------------------------------------------------------

  const EDGES = { left: 40, right: 322, width: 440 };
  const hidden = new Set();
  const chips = all(".chip");

  function showLines() {
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(!hidden.has(chip.dataset.row))));
    all(".chart [data-row]").forEach((part) => part.classList.toggle("off", hidden.has(part.dataset.row)));
  }

  function fadeOthers(row) {
    all(".chart [data-row]").forEach((part) => part.classList.toggle("faded", row !== null && part.dataset.row !== row));
  }

  chips.forEach((chip) => {
    const row = chip.dataset.row;
    chip.addEventListener("click", () => {
      hidden.has(row) ? hidden.delete(row) : hidden.add(row);
      showLines();
      fadeOthers(hidden.has(row) ? null : row);
    });
    for (const way of ["pointerenter", "focus"]) chip.addEventListener(way, () => !hidden.has(row) && fadeOthers(row));
    for (const way of ["pointerleave", "blur"]) chip.addEventListener(way, () => fadeOthers(null));
  });

  function nearest(points, x) {
    return points.reduce((best, at, i) => (Math.abs(at - x) < Math.abs(points[best] - x) ? i : best), 0);
  }

  function makeReader(chart) {
    const data = JSON.parse(chart.querySelector(".data").textContent);
    const svg = chart.querySelector("svg");
    const tip = chart.querySelector(".tip");
    const rule = chart.querySelector(".rule");
    const [low, high] = data.x;
    const write = (value) => (value === null ? "–" : value.toFixed(data.digits).replace("-", "−"));
    const steps = [...new Set(data.series.flatMap((series) => series.at))].sort((a, b) => a - b);
    let step = null;

    function line(series) {
      const i = nearest(series.at, steps[step]);
      const row = document.createElement("div");
      const title = document.createElement("span");
      const value = document.createElement("b");
      const ends = document.createElement("small");
      title.textContent = series.title;
      value.textContent = write(series.mean[i]);
      if (series.low[i] !== null) ends.textContent = `${write(series.low[i])} to ${write(series.high[i])}`;
      value.append(ends);
      row.append(title, value);
      return { row, mean: series.mean[i] };
    }

    function show(next) {
      step = Math.max(0, Math.min(steps.length - 1, next));
      const place = EDGES.left + ((steps[step] - low) / (high - low)) * (EDGES.right - EDGES.left);
      rule.setAttribute("x1", place);
      rule.setAttribute("x2", place);
      rule.setAttribute("visibility", "visible");
      const head = document.createElement("p");
      head.textContent = `at ${Number(steps[step].toFixed(3))}`;
      const lines = data.series.filter((series) => !hidden.has(series.key)).map(line);
      lines.sort((a, b) => (b.mean ?? -Infinity) - (a.mean ?? -Infinity));
      tip.replaceChildren(head, ...lines.map((entry) => entry.row));
      tip.hidden = false;
      const pixels = (place / EDGES.width) * svg.clientWidth;
      const before = pixels > svg.clientWidth / 2;
      tip.style.left = `${Math.max(0, before ? pixels - tip.offsetWidth - 12 : pixels + 12)}px`;
    }

    function hide() {
      step = null;
      tip.hidden = true;
      rule.setAttribute("visibility", "hidden");
    }

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * EDGES.width;
      show(nearest(steps, low + ((x - EDGES.left) / (EDGES.right - EDGES.left)) * (high - low)));
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1 };
      if (event.key === "Escape") hide();
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(step === null ? 0 : step + moves[event.key]);
    });
  }

  all(".chart").forEach(makeReader);

  // ---- examples -------------------------------------------------------------------------------------------------

  const examples = all(".example");
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

  function showExample() {
    const metric = chosen("metric");
    const kinds = new Set(examples.filter((example) => example.dataset.metric === metric).map((example) => example.dataset.kind));
    all('input[name="kind"]').forEach((input) => { input.disabled = !kinds.has(input.value); });
    const kind = kinds.has(chosen("kind")) ? chosen("kind") : [...kinds][0];
    examples.forEach((example) => example.classList.toggle("off", example.dataset.metric !== metric || example.dataset.kind !== kind));
  }

  all('input[name="metric"], input[name="kind"]').forEach((input) => input.addEventListener("change", showExample));
  if (examples.length) showExample();
})();
