/** The static page: its images stand in it, or in scripts beside it. */
(() => {
  const read = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
  const told = read("images");
  const bodies = [...document.querySelectorAll("script.photo")];
  const photos = told?.folder ? makeParts(told.folder, 24) : null;
  const thumbs = told?.folder ? makeParts(told.folder, 24) : null;
  const images = told?.images.map(([name, thumb], index) => ({ id: String(index), name, thumb }));
  const film = images ? makeFilm(images, { thumb: (image) => image.thumb ?? thumbs("thumbs", told.each, Number(image.id)), open }) : null;
  const view = makeView(read("page"), { move: film?.move });
  let wanted = null;

  async function open(id) {
    wanted = id;
    film?.show(id);
    try {
      const photo = photos ? await photos("image", 1, Number(id)) : JSON.parse(bodies[Number(id)].textContent);
      // Meanwhile another one was chosen.
      if (wanted === id) view.open(photo);
    } catch (error) {
      document.getElementById("meaning").textContent = error.message;
    }
  }

  open("0");
})();
