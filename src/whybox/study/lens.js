// A covered picture: a lens follows the pointer, or each click uncovers a disc. What is recorded is which place was uncovered when,
// in parts of the picture's width and height, so that neither its size on the screen nor a change of it matters.
window.coveredPicture = (() => {
  "use strict";

  const EVERY = 16;  // milliseconds between two samples of a moving lens, about one frame
  const EDGE = 0.99999;  // 1 is the picture's edge, which belongs to no pixel
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  const within = (part) => Math.min(Math.max(part, 0), EDGE);
  const percent = (part) => `${100 * part}%`;
  const words = (part) => `${Math.round(100 * part)} %`;

  // ---- what is recorded ------------------------------------------------------------------------------------------

  // Samples [milliseconds, x, y] from the first place on, null where the picture is covered again.
  function recorder(longest) {
    const samples = [];
    let began = 0, end = -1;
    const moment = () => (began ? Math.round(performance.now() - began) : 0);
    const open = () => samples.length > 0 && samples[samples.length - 1][1] !== null;
    return {
      moment,
      open,
      begun: () => began > 0,
      over: () => end >= 0,
      told: () => ({ samples, end }),
      uncover(place, moving) {
        began ||= performance.now();
        const sample = [moment(), ...place.map((part) => Number(part.toFixed(5)))], last = samples[samples.length - 1];
        if (moving && open() && sample[0] - last[0] < EVERY) last.splice(1, 2, ...sample.slice(1));
        else samples.push(sample);
      },
      cover() { samples.push([moment(), null, null]); },
      finish() {
        end = Math.min(moment(), longest);
        // The clock that ends it is late by some milliseconds, in which a sample may still have come.
        while (samples.length && samples[samples.length - 1][0] > end) samples.pop();
      },
    };
  }

  // ---- what is seen ----------------------------------------------------------------------------------------------

  function drawBox([x1, y1, x2, y2], make) {
    const box = make("span", { class: "target", "aria-hidden": "true" });
    Object.assign(box.style, { left: percent(x1), top: percent(y1), width: percent(x2 - x1), height: percent(y2 - y1) });
    return box;
  }

  function build(body, told, { make, picture }) {
    const sharp = picture(told.sharp, ""), ring = make("span", { class: "ring", "aria-hidden": "true" });
    sharp.className = "sharp";
    const stage = make("div", {
      class: told.follows ? "stage lens" : "stage", tabindex: "0", role: "application", "aria-describedby": "help",
      "aria-label": "Blurred picture. Arrow keys move, with Shift in small steps; Space uncovers; Escape covers.",
    }, picture(told.picture, ""), sharp, ring);
    if (told.box) stage.append(drawBox(told.box, make));
    const left = make("progress", { class: "left", max: "1", value: "1", "aria-label": "Time left" });
    const says = make("p", { class: "soft says", role: "status" });
    const whole = make("div", { class: "covered" }, stage, left, says);
    body.append(whole);
    return { whole, stage, sharp, ring, left, says };
  }

  // The sharp picture, of which a disc is shown. CSS counts percents of a circle's radius of the diagonal over the root of two.
  function disc({ whole, stage, sharp, ring }, radius) {
    let sides = null;
    const hide = () => { sharp.style.clipPath = "circle(0)"; };
    const mark = ([x, y]) => { if (sides) Object.assign(ring.style, { left: percent(x - sides[0]), top: percent(y - sides[1]) }); };
    sharp.addEventListener("load", () => {
      const { naturalWidth: wide, naturalHeight: high } = sharp, pixels = radius * Math.max(wide, high);
      sides = [pixels / wide, pixels / high];
      stage.style.setProperty("--radius", percent(pixels / (Math.hypot(wide, high) / Math.SQRT2)));
      Object.assign(ring.style, { width: percent(2 * sides[0]), height: percent(2 * sides[1]) });
      mark([0.5, 0.5]);
      // Not higher than what is seen at once: nobody scrolls while the time runs.
      whole.style.maxWidth = `${Math.round(64 * wide / high)}vh`;
    });
    hide();
    return {
      hide,
      mark,
      // In parts of width and height; null until it is known, because without a radius all of the picture would be shown.
      sides: () => sides,
      show([x, y]) { sharp.style.clipPath = `circle(var(--radius) at ${percent(x)} ${percent(y)})`; },
    };
  }

  // ---- what a person does ----------------------------------------------------------------------------------------

  function listenToPointer(stage, follows, { uncover, cover }) {
    const at = (event) => {
      const { left, top, width, height } = stage.getBoundingClientRect();
      return [(event.clientX - left) / width, (event.clientY - top) / height];
    };
    if (!follows) return stage.addEventListener("click", (event) => uncover(at(event)));
    // Not on entering: a picture that appears, or moves, under a pointer at rest is not looked at yet.
    for (const kind of ["pointerdown", "pointermove"]) {
      stage.addEventListener(kind, (event) => {
        const place = at(event);
        // A finger is captured, and still followed outside.
        if (place.some((part) => part < 0 || part > 1)) cover(); else uncover(place);
      });
    }
    for (const kind of ["pointerleave", "pointercancel"]) stage.addEventListener(kind, cover);
    stage.addEventListener("pointerup", (event) => { if (event.pointerType !== "mouse") cover(); });
  }

  // A key that does nothing here is left to the browser.
  function listenToKeys(stage, { move, uncover, cover }) {
    stage.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const arrow = ARROWS[event.key];
      if (arrow) move(arrow.map((part) => part * (event.shiftKey ? 0.25 : 1)));
      else if (event.key === " " || event.key === "Enter") uncover();
      else if (event.key === "Escape") cover();
      else return;
      event.preventDefault();
    });
  }

  function coverWhenLeft(stage, cover) {
    stage.addEventListener("blur", cover);
    const away = () => { if (stage.isConnected) cover(); else document.removeEventListener("visibilitychange", away); };
    document.addEventListener("visibilitychange", away);
  }

  // ---- both ------------------------------------------------------------------------------------------------------

  // Shows the picture in `body` and gives a function that ends the recording and returns it, or says what is missing.
  return function coveredPicture(body, told, { make, picture, next }) {
    const longest = Math.round(1000 * told.seconds);
    const parts = build(body, told, { make, picture }), lens = disc(parts, told.radius), record = recorder(longest);
    const { stage, left, says } = parts;
    let place = [0.5, 0.5];

    function finish() {
      if (record.over()) return;
      record.finish();
      lens.hide();
      stage.classList.add("over");
    }

    function tick(timer) {
      if (record.over() || !stage.isConnected) return clearInterval(timer);
      left.value = 1 - record.moment() / longest;
      if (record.moment() < longest) return;
      finish();
      says.textContent = "The time is over.";
      next.focus({ preventScroll: true });
    }

    function uncover(wanted) {
      if (record.over() || body.dataset.ready !== "yes" || !lens.sides()) return;
      if (!record.begun()) { const timer = setInterval(() => tick(timer), 50); }
      place = wanted.map(within);
      lens.show(place);
      lens.mark(place);
      record.uncover(place, told.follows);
    }

    function cover() {
      if (!record.open() || record.over()) return;
      lens.hide();
      record.cover();
    }

    function say(state) {
      if (!record.over()) says.textContent = `${words(place[0])} from the left, ${words(place[1])} from the top: ${state}`;
    }

    listenToPointer(stage, told.follows, { uncover, cover });
    listenToKeys(stage, {
      move(step) {
        const moved = place.map((part, i) => within(part + step[i] * (lens.sides()?.[i] || 0)));
        if (told.follows) uncover(moved); else lens.mark(place = moved);
        say(told.follows ? "uncovered" : "covered");
      },
      uncover() { uncover(place); say("uncovered"); },
      cover() { cover(); say("covered"); },
    });
    coverWhenLeft(stage, cover);

    return () => {
      if (!record.begun()) return "Uncover a part of the picture first.";
      finish();
      return record.told();
    };
  };
})();
