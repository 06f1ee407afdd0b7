/**
 * What was looked at, to take away: the static page, or the numbers of what is shown.
 *
 * source.asked: what is asked, {image, model, texts}. source.waitFor, source.trouble: as of `makeAsking`.
 */
const makeTaking = (view, source) => {
  const { make } = heat;
  const { asked, waitFor, trouble } = source;

  async function keep(kind) {
    const photo = view.photo();
    const one = photo && view.layer();
    if (!one) return;
    const done = photo.layers.filter((other) => other !== one && other.maps.some(Boolean));
    const layers = [...(kind === "page" ? done : []), one].map(({ method, target, place }) => [method, target, place || null]);
    const { drawn } = photo.detections[view.active()] ?? {};
    const rows = photo.detections.map((_, i) => i).filter((i) => !photo.detections[i].drawn && view.shown(photo.detections[i]));
    const { image, model, texts } = asked;
    try {
      const question = { image, model, texts, kind, layers: layers.slice(-24), threshold: view.state.threshold ?? 0 };
      const { content } = await waitFor("Making the file", "export", { ...question, ...(drawn ? { drawn: [drawn] } : { rows }) }, { firm: true });
      const [text, type] = kind === "page" ? [content, "text/html"] : [JSON.stringify(content, null, 2), "application/json"];
      const address = URL.createObjectURL(new Blob([text], { type }));
      const stem = photo.name.replace(/^.*\//, "").replace(/\.[^.]*$/, "");
      make("a", { href: address, download: `${stem}.${kind === "page" ? "html" : "json"}` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
      trouble(null);
    } catch (error) {
      trouble(error);
    }
  }

  return { keep };
};
