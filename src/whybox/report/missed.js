/**
 * Boxes that the reader drew: the best candidate for one, and what may be asked next of it.
 *
 * source.asked: what is asked, {image, model, texts}. source.model(): what the model offers. source.waitFor, source.trouble: as of
 * `makeAsking`. source.drawing: the box. source.choose(change): ask something else.
 */
const makeMissed = (view, source) => {
  const { make } = heat;
  const { asked, waitFor, trouble, drawing, choose } = source;
  const CONTRAST = "contrast:";
  const find = (id) => document.getElementById(id);

  async function askMissed() {
    const photo = view.photo();
    const { image, texts } = asked;
    const question = { image, model: asked.model, texts, box: drawing.box(), threshold: view.state.threshold ?? 0.3 };
    try {
      const told = await waitFor("Looking for the best candidate", "missed", { ...question, label: find("box-class").value || null }, { firm: true });
      photo.detections.push({ ...told.found, rival: told.rival });
      for (const one of photo.layers) one.maps.push(null);
      trouble(null);
      if (photo !== view.photo()) return;
      view.refresh();
      view.set({ pinned: photo.detections.length - 1, peek: null });
      view.reveal(find("list"), find("list").lastElementChild);
      if (!view.state.target.startsWith("score")) choose({ target: source.model().target });
    } catch (error) {
      trouble(error);
    }
  }

  /** What may be asked next of a box that the reader drew. */
  function showAdvice(index) {
    const found = index === null ? null : view.photo().detections[index];
    find("advice").hidden = !found?.drawn;
    if (!found?.drawn) return find("advice").replaceChildren();
    const next = [["What speaks against it", "against"], ...(found.rival ? [[`Why not ${found.rival}`, CONTRAST + found.rival]] : [])];
    const fits = next.filter(([, target]) => target.startsWith(CONTRAST) || view.photo().all.includes(target));
    find("advice").replaceChildren(found.note, ...fits.map(([textContent, target]) => {
      const button = make("button", { type: "button", textContent });
      button.addEventListener("click", () => choose({ target }));
      return button;
    }));
  }

  return { askMissed, showAdvice };
};
