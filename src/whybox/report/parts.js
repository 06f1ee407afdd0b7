/** Parts of the page in scripts beside it, of which those that were used last are kept: a page from disk may fetch nothing else. */
const makeParts = (() => {
  const waiting = new Map();
  // What the scripts call.
  window.whyboxParts = (name, parts) => waiting.get(name)?.(parts);

  const load = (folder, name) =>
    new Promise((take, fail) => {
      const script = document.createElement("script");
      waiting.set(name, take);
      script.src = `${folder}/${name}.js`;
      script.addEventListener("error", () => fail(new Error(`“${folder}”, the folder beside this page, is missing or not whole: keep both together.`)));
      const done = () => {
        waiting.delete(name);
        script.remove();
      };
      script.addEventListener("load", done);
      script.addEventListener("error", done);
      document.head.append(script);
    });

  return (folder, most) => {
    const kept = new Map();
    /** Part number `index` of a stem whose scripts hold `each` parts. */
    return async (stem, each, index) => {
      const name = `${stem}-${Math.floor(index / each)}`;
      const found = kept.get(name) ?? load(folder, name);
      kept.delete(name);
      kept.set(name, found);
      if (kept.size > most) kept.delete(kept.keys().next().value);
      try {
        return (await found)[index % each];
      } catch (error) {
        // So that it is tried again.
        kept.delete(name);
        throw error;
      }
    };
  };
})();
