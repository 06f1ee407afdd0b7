// A covered picture: a lens follows the pointer, or each click uncovers a disc. What is recorded is which place was uncovered when,
// in parts of the picture's width and height, so that neither its size on the screen nor a change of it matters.
window.coveredPicture = (() => {
  "use strict";

  const EVERY = 16;  // milliseconds between two samples of a moving lens, about one frame
  const EDGE = 0.99999;  // 1 is the picture's edge, which belongs to no pixel

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const within = (part) => Math.min(Math.max(part, 0), EDGE);
  const rounded = (part) => Number(part.toFixed(5));
  const words = (part) => `${Math.round(100 * part)} %`;
  const percent = (part) => `${100 * part}%`;

  function drawBox([x1, y1, x2, y2], make) {
    const box = make("span", { class: "target", "aria-hidden": "true" });
    Object.assign(box.style, { left: percent(x1), top: percent(y1), width: percent(x2 - x1), height: percent(y2 - y1) });
    return box;
  }

  // Shows the picture in `body` and gives a function that ends the recording and returns it, or says what is missing.
  return function coveredPicture(body, told, { make, picture, next }) {
    const covered = picture(told.picture, ""), sharp = picture(told.sharp, "");
    sharp.className = "sharp";
    const ring = make("span", { class: "ring", "aria-hidden": "true" });
    const stage = make("div", {
      class: told.follows ? "stage lens" : "stage", tabindex: "0", role: "application", "aria-describedby": "help",
      "aria-label": "Blurred picture. Arrow keys move, with Shift in small steps; Space uncovers; Escape covers.",
    }, covered, sharp, ring);
    if (told.box) stage.append(drawBox(told.box, make));
    const left = make("progress", { class: "left", max: "1", value: "1", "aria-label": "Time left" });
    const says = make("p", { class: "soft says", role: "status" });
    const whole = make("div", { class: "covered" }, stage, left, says);
    body.append(whole);

    const samples = [];
    let began = 0, over = false, open = false, place = [0.5, 0.5], end = 0, sides = [0, 0];

    const moment = () => Math.round(performance.now() - began);
    const hide = () => { sharp.style.clipPath = "circle(0)"; open = false; };
    hide();

    // The disc's radius as parts of width and height; as CSS counts a circle's, of the diagonal over the root of two.
    sharp.addEventListener("load", () => {
      const { naturalWidth: wide, naturalHeight: high } = sharp;
      const radius = told.radius * Math.max(wide, high);
      sides = [radius / wide, radius / high];
      // Not higher than what is seen at once: nobody scrolls while the time runs.
      whole.style.maxWidth = `${Math.round(64 * wide / high)}vh`;
      stage.style.setProperty("--radius", `${100 * radius / (Math.hypot(wide, high) / Math.SQRT2)}%`);
      Object.assign(ring.style, { width: percent(2 * sides[0]), height: percent(2 * sides[1]) });
      moveRing();
    });

    function moveRing() {
      Object.assign(ring.style, { left: percent(place[0] - sides[0]), top: percent(place[1] - sides[1]) });
    }

    function begin() {
      began = performance.now();
      const timer = setInterval(() => {
        if (over || !stage.isConnected) return clearInterval(timer);
        left.value = 1 - moment() / (1000 * told.seconds);
        if (moment() < 1000 * told.seconds) return;
        finish();
        says.textContent = "The time is over.";
        next.focus({ preventScroll: true });
      }, 50);
    }

    function finish() {
      if (over) return;
      over = true;
      hide();
      end = Math.min(moment(), 1000 * told.seconds);
      // The timer is late by some milliseconds, in which a sample may still have come.
      while (samples.length && samples[samples.length - 1][0] > end) samples.pop();
      stage.classList.add("over");
    }

    function uncover(x, y) {
      // Without a radius, all of the picture would be shown.
      if (over || body.dataset.ready !== "yes" || !sides[0]) return;
      if (!began) begin();
      place = [within(x), within(y)];
      sharp.style.clipPath = `circle(var(--radius) at ${percent(place[0])} ${percent(place[1])})`;
      moveRing();
      const sample = [moment(), ...place.map(rounded)], last = samples[samples.length - 1];
      if (told.follows && open && last && sample[0] - last[0] < EVERY) last.splice(1, 2, ...sample.slice(1));
      else samples.push(sample);
      open = true;
    }

    function cover() {
      if (!open || over) return;
      hide();
      samples.push([moment(), null, null]);
    }

    function at(event) {
      const { left: x, top: y, width, height } = stage.getBoundingClientRect();
      return [(event.clientX - x) / width, (event.clientY - y) / height];
    }

    function follow(event) {
      const [x, y] = at(event);
      // A finger is captured, and still followed outside.
      if (x < 0 || y < 0 || x > 1 || y > 1) cover(); else uncover(x, y);
    }

    if (told.follows) {
      // Not on entering: a picture that appears, or moves, under a pointer at rest is not looked at yet.
      for (const kind of ["pointerdown", "pointermove"]) stage.addEventListener(kind, follow);
      for (const kind of ["pointerleave", "pointercancel"]) stage.addEventListener(kind, cover);
      stage.addEventListener("pointerup", (event) => { if (event.pointerType !== "mouse") cover(); });
    } else {
      stage.addEventListener("click", (event) => uncover(...at(event)));
    }

    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = arrows[event.key], uncovers = event.key === " " || event.key === "Enter";
      if (arrow) {
        const step = event.shiftKey ? 0.25 : 1;
        const [x, y] = place.map((part, i) => within(part + arrow[i] * step * sides[i]));
        if (told.follows) uncover(x, y); else { place = [x, y]; moveRing(); }
      } else if (uncovers) uncover(...place);
      else if (event.key === "Escape") cover();
      else return;
      event.preventDefault();
      const seen = uncovers || (arrow && told.follows) ? "uncovered" : "covered";
      if (!over) says.textContent = `${words(place[0])} from the left, ${words(place[1])} from the top: ${seen}`;
    });
    stage.addEventListener("blur", cover);
    const away = () => { if (stage.isConnected) cover(); else document.removeEventListener("visibilitychange", away); };
    document.addEventListener("visibilitychange", away);

    return () => {
      if (!samples.some((sample) => sample[1] !== null)) return "Uncover a part of the picture first.";
      finish();
      return { samples, end };
    };
  };
})();
