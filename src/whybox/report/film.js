/**
 * The strip of images, of which only those in sight have a button, and the search in their names.
 *
 * images: {id, name}, and a `mark` to show on its picture where there is one. source.thumb(image): the address of its small
 * picture, or a promise of it. source.open(id): called with the image that was chosen.
 */
const makeFilm = (images, source) => {
  const { make } = heat;
  const find = (id) => document.getElementById(id);
  const WIDE = 122;
  const buttons = new Map();
  let listed = images;
  let current = null;

  /** Lay the strip anew: after a search, or where the images or their order have changed. */
  function lay(next = images) {
    images = next;
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    listed = words.length ? images.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word))) : images;
    find("found").textContent = words.length ? `${listed.length} of ${images.length}` : `${images.length} images`;
    find("rail").style.width = `${Math.max(1, listed.length) * WIDE}px`;
    const focused = [...buttons].find(([, button]) => button === document.activeElement)?.[0];
    buttons.clear();
    find("rail").replaceChildren();
    fill();
    // Whoever goes through the strip by keyboard stays where they are while its order changes.
    buttons.get(focused)?.focus({ preventScroll: true });
  }

  /** Buttons for the images that can be seen, and a few beside them. */
  function fill() {
    const film = find("film");
    const first = Math.max(0, Math.floor(film.scrollLeft / WIDE) - 4);
    const near = listed.slice(first, first + Math.ceil(film.clientWidth / WIDE) + 8);
    const ids = new Set(near.map(({ id }) => id));
    for (const [id, button] of buttons) {
      if (ids.has(id)) continue;
      button.remove();
      buttons.delete(id);
    }
    near.forEach((image, i) => {
      if (!buttons.has(image.id)) buttons.set(image.id, layThumb(image, first + i));
    });
    for (const [id, button] of buttons) button.setAttribute("aria-current", String(id === current));
  }

  function layThumb(image, place) {
    const picture = make("img", { alt: "" });
    picture.addEventListener("error", () => picture.classList.add("broken"));
    showThumb(image, picture);
    const mark = image.mark ? [make("em", { textContent: image.mark })] : [];
    const button = make("button", { type: "button", title: image.name }, picture, ...mark, make("span", { textContent: image.name }));
    button.style.left = `${place * WIDE}px`;
    button.addEventListener("click", () => source.open(image.id));
    // In the order of the images, so that Tab goes through them as they lie.
    const after = [...find("rail").children].find((other) => parseFloat(other.style.left) > place * WIDE);
    find("rail").insertBefore(button, after ?? null);
    return button;
  }

  async function showThumb(image, picture) {
    try {
      picture.src = await source.thumb(image);
    } catch {
      picture.classList.add("broken");
    }
  }

  /** Say which image is shown, and scroll to it. */
  function show(id) {
    current = id;
    const place = listed.findIndex((image) => image.id === id);
    const film = find("film");
    if (place >= 0) {
      const [left, right] = [place * WIDE, (place + 1) * WIDE];
      film.scrollLeft += Math.min(0, left - film.scrollLeft) + Math.max(0, right - film.scrollLeft - film.clientWidth);
    }
    fill();
  }

  /** Open the next or the previous image. */
  function move(by) {
    if (!listed.length) return;
    const at = listed.findIndex(({ id }) => id === current);
    const next = at < 0 ? (by > 0 ? 0 : listed.length - 1) : (at + by + listed.length) % listed.length;
    source.open(listed[next].id);
  }

  function key(event) {
    const search = find("search");
    const control = event.ctrlKey || event.metaKey;
    // The browser finds only what has a button; asked again, it looks there.
    const all = control && event.key === "f" && event.target !== search && buttons.size < listed.length;
    const slash = event.key === "/" && !control && !event.altKey && !event.target.matches?.("input, select, textarea");
    if (!all && !slash) return;
    event.preventDefault();
    search.focus();
    search.select();
  }

  find("search").addEventListener("input", () => lay());
  find("search").addEventListener("keydown", (event) => event.key === "Enter" && listed.length && source.open(listed[0].id));
  find("film").addEventListener("scroll", fill, { passive: true });
  new ResizeObserver(fill).observe(find("film"));
  document.addEventListener("keydown", key);
  lay();
  return { lay, show, move };
};
