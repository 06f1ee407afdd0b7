/** The static page: its images stand in it. */
(() => {
  const settings = JSON.parse(document.getElementById("page").textContent);
  const bodies = [...document.querySelectorAll("script.photo")];
  const film = document.getElementById("film");
  const buttons = film ? [...film.querySelectorAll("button")] : [];
  const several = bodies.length > 1;
  const view = makeView(settings, { move: several ? (by) => open((here + by + bodies.length) % bodies.length) : null });
  let here = 0;

  function open(index) {
    here = index;
    view.open(JSON.parse(bodies[index].textContent));
    buttons.forEach((button, i) => button.setAttribute("aria-current", String(i === index)));
    if (film) view.reveal(film, buttons[index]);
  }

  buttons.forEach((button, i) => button.addEventListener("click", () => open(i)));
  open(0);
})();
