/**
 * Two models over all images, the biggest changes first: one image after the other in the background, as long as it is wanted.
 *
 * source.ask(what, question, {signal}): the answer of the server. source.order(images): lay the strip in this order; null: in its own.
 * source.settings(): what is compared, {model, other, texts, method, target, threshold}. source.trouble(error): tell it.
 */
const makeChanges = (source) => {
  const find = (id) => document.getElementById(id);
  /** Sizes by image and what was compared, kept: what was stopped goes on where it was. */
  const kept = new Map();
  let run = null;

  /** Begin, or go on. */
  async function start(images) {
    const settings = source.settings();
    const key = JSON.stringify(settings);
    if (!kept.has(key)) kept.set(key, new Map());
    const mine = { sizes: kept.get(key), images, controller: new AbortController(), running: true };
    run = mine;
    const drawing = setInterval(() => order(mine), 1000);
    try {
      for (const { id } of images) {
        if (mine.sizes.has(id)) continue;
        if (run !== mine) return;
        mine.sizes.set(id, await sizeOf(id, settings, mine.controller.signal));
        tell(mine);
      }
    } catch (error) {
      source.trouble(error);
    } finally {
      clearInterval(drawing);
      mine.running = false;
      order(mine);
    }
  }

  /** The largest change of an image; −1 where it cannot be compared. */
  async function sizeOf(image, settings, signal) {
    try {
      return (await source.ask("change", { image, ...settings }, { signal })).size;
    } catch (error) {
      if (error.name === "AbortError" || error instanceof TypeError) throw error;
      return -1;
    }
  }

  function order(mine) {
    if (run !== mine) return;
    const size = (image) => mine.sizes.get(image.id) ?? -1;
    const marked = mine.images.map((image) => (size(image) < 0 ? image : { ...image, mark: size(image).toFixed(2) }));
    source.order(marked.sort((a, b) => size(b) - size(a)));
    tell(mine);
  }

  function tell(mine) {
    if (run !== mine) return;
    const [done, all] = [mine.images.filter(({ id }) => mine.sizes.has(id)).length, mine.images.length];
    Object.assign(find("changes-share"), { max: all, value: done, hidden: !mine.running });
    find("changes-stop").hidden = done === all;
    find("changes-stop").textContent = mine.running ? "Stop" : "Go on";
    find("changes-says").textContent = done < all ? `${done} of ${all} compared` : `${all} compared`;
  }

  /** End it. */
  function stop() {
    run?.controller.abort();
  }

  /** Forget the order: other models were chosen, or none. */
  function leave(offered) {
    find("changes").hidden = !offered;
    if (!run) return;
    stop();
    run = null;
    find("changes-first").setAttribute("aria-pressed", "false");
    for (const id of ["changes-share", "changes-stop"]) find(id).hidden = true;
    find("changes-says").textContent = "";
    source.order(null);
  }

  find("changes-first").addEventListener("click", () => {
    if (run) return leave(true);
    find("changes-first").setAttribute("aria-pressed", "true");
    start(source.images());
  });
  find("changes-stop").addEventListener("click", () => (run.running ? stop() : start(run.images)));
  return { leave };
};
