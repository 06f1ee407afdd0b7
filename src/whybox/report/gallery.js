(() => {
  "use strict";

  const find = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const chosen = () => document.querySelector('input[name="kind"]:checked').value;

  function filter() {
    const kind = chosen();
    const name = find("class").value;
    let count = 0;
    for (const card of cards) {
      const fits = (!kind || card.dataset.kind === kind) && (!name || card.dataset.classes.includes(` ${name} `));
      card.hidden = !fits;
      count += fits;
    }
    find("shown").textContent = count ? `${count} shown, ${find("cards").dataset.order}` : "none of these";
  }

  if (!cards.length) return;
  find("kinds").addEventListener("change", filter);
  find("class").addEventListener("change", filter);
  find("heat").addEventListener("change", (event) => find("cards").classList.toggle("no-heat", !event.target.checked));
  filter();
})();
