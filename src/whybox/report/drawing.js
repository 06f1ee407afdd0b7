/** A box that the reader draws on the photograph, or writes as corners. */
const makeDrawing = (view) => {
  const find = (id) => document.getElementById(id);
  const corners = () => ["x1", "y1", "x2", "y2"].map((name) => find("box-form").elements[name]);
  let draft = null;
  let from = null;

  function pointOf(event) {
    const edge = find("stage").getBoundingClientRect();
    const { width, height } = view.photo();
    const within = (value, most) => Math.min(most, Math.max(0, value));
    const x = within(((event.clientX - edge.left) / edge.width) * width, width);
    return [x, within(((event.clientY - edge.top) / edge.height) * height, height)];
  }

  function showDraft() {
    const photo = view.photo();
    draft ??= shapes.draw("svg", { id: "draft", preserveAspectRatio: "none", "aria-hidden": "true" });
    if (!draft.isConnected) find("stage").append(draft);
    draft.replaceChildren();
    const [x1, y1, x2, y2] = corners().map((input) => Number(input.value));
    if (!find("drawing").open || !photo || !(x2 > x1 && y2 > y1)) return;
    draft.setAttribute("viewBox", `0 0 ${photo.width} ${photo.height}`);
    draft.append(shapes.draw("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));
  }

  function drawOn(stage) {
    const drawing = () => find("drawing").open && view.photo();
    stage.addEventListener("pointerdown", (event) => {
      if (!drawing() || event.button) return;
      from = pointOf(event);
      stage.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    stage.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = pointOf(event);
      const box = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
      corners().forEach((input, i) => (input.value = box[i].toFixed(1)));
      showDraft();
    });
    stage.addEventListener("pointerup", () => {
      if (from) find("box-class").focus();
      from = null;
    });
    // What is drawn is no choice of a box.
    stage.addEventListener("click", (event) => drawing() && event.stopImmediatePropagation(), true);
    find("drawing").addEventListener("toggle", () => {
      stage.classList.toggle("drawing", find("drawing").open);
      showDraft();
    });
    corners().forEach((input) => input.addEventListener("input", showDraft));
  }

  drawOn(find("stage"));
  return {
    /** Its corners, in pixels of the photograph. */
    box: () => corners().map((input) => Number(input.value)),
    open() {
      find("drawing").open = true;
      corners()[0].focus();
    },
  };
};
