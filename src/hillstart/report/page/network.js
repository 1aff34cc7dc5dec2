// Pictures to choose, to drop and to draw; the drawing of the network; and what it answers.
const { html, section } = hillstart;
const PAPER = 280; // the side of what is drawn on

section("network", (root) => {
  const box = hillstart.box();
  const { text } = hillstart.arithmetic;
  const at = (id) => root.querySelector(`#${id}`);
  const strip = at("pictures");

  // ---------------------------------------------------------------- the given pictures

  const thumbs = box.shown_pictures.map((_, k) =>
    html("button", { type: "button", tabindex: -1, onclick: () => choose(k) }, hillstart.picture.canvas(box.pixels(k), box.preprocessing.size)),
  );
  strip.append(...thumbs);
  let marked = null;

  function mark() {
    if (marked === box.shown_pictures) return;
    marked = box.shown_pictures;
    marked.forEach(({ name, label, answer }, k) => {
      const known = label === null ? name : `${name}: ${box.classes[label]}`;
      const wrong = label !== null && answer !== label;
      const title = wrong ? `${known}, taken for ${box.classes[answer]}` : known;
      thumbs[k].className = wrong ? "thumb wrong" : "thumb";
      thumbs[k].title = title;
      thumbs[k].setAttribute("aria-label", title);
    });
    // What the page says of the chosen start is not true of another network.
    document.querySelectorAll(".of-chosen").forEach((said) => (said.hidden = Boolean(box.opened)));
    document.querySelectorAll(".opened").forEach((said) => {
      said.hidden = !box.opened;
      said.replaceChildren(
        html("span", {}, `Opened here: ${box.opened}. `),
        html("button", { type: "button", class: "button small", onclick: () => box.put(null, null) }, "Back to the chosen start"),
      );
    });
  }

  function choose(k) {
    complain("");
    box.show(box.pixels(k), { ...box.shown_pictures[k], place: k });
  }

  strip.addEventListener("keydown", (event) => {
    const k = thumbs.indexOf(document.activeElement);
    const goes = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: thumbs.length - 1 }[event.key];
    if (k < 0 || !thumbs[goes]) return;
    event.preventDefault();
    choose(goes);
    thumbs[goes].focus();
  });

  // ---------------------------------------------------------------- one's own

  function complain(sentence) {
    at("no-picture").textContent = sentence;
    at("no-picture").hidden = !sentence;
  }

  async function read(files) {
    if (!files.length) return;
    const [file] = files;
    try {
      const pixels = hillstart.picture.seen(await hillstart.picture.decoded(file), box.preprocessing);
      complain("");
      box.show(pixels, { name: file.name, label: null });
    } catch {
      complain(`${file.name}: this browser cannot read it as a picture; choose a PNG or JPEG.`);
    }
  }

  at("choose-file").addEventListener("click", () => at("own-file").click());
  at("own-file").addEventListener("change", () => {
    read(at("own-file").files);
    at("own-file").value = "";
  });
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("over");
  });
  root.addEventListener("dragleave", (event) => root.contains(event.relatedTarget) || root.classList.remove("over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("over");
    read(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => read(event.clipboardData.files));

  hillstart.camera({
    open: at("camera"),
    panel: at("camera-view"),
    video: at("camera-video"),
    take: at("camera-take"),
    cancel: at("camera-cancel"),
    complain,
    given(canvas) {
      const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      box.show(hillstart.picture.seen(image, box.preprocessing), { name: "Your picture", label: null });
    },
  });

  const pen = at("canvas").getContext("2d", { willReadFrequently: true });
  let asked = false;

  function blank() {
    pen.fillStyle = box.paper ? "#ffffff" : "#000000";
    pen.fillRect(0, 0, PAPER, PAPER);
  }

  function showDrawing() {
    asked = false;
    box.show(hillstart.picture.seen(pen.getImageData(0, 0, PAPER, PAPER), box.preprocessing), { name: "Your drawing", label: null });
  }

  function stroke(event) {
    const place = at("canvas").getBoundingClientRect();
    pen.lineTo(((event.clientX - place.x) / place.width) * PAPER, ((event.clientY - place.y) / place.height) * PAPER);
    pen.stroke();
    if (!asked) requestAnimationFrame(showDrawing); // at most once for each image of the screen
    asked = true;
  }

  at("canvas").addEventListener("pointerdown", (event) => {
    event.preventDefault();
    at("canvas").setPointerCapture(event.pointerId);
    Object.assign(pen, { strokeStyle: box.paper ? "#000000" : "#ffffff", lineWidth: (1.5 * PAPER) / box.preprocessing.size, lineCap: "round", lineJoin: "round" });
    pen.beginPath();
    stroke(event);
  });
  at("canvas").addEventListener("pointermove", (event) => at("canvas").hasPointerCapture(event.pointerId) && stroke(event));
  at("clear").addEventListener("click", () => {
    blank();
    showDrawing();
  });
  at("draw").addEventListener("click", () => {
    const opens = at("drawing").hidden;
    at("drawing").hidden = !opens;
    at("draw").setAttribute("aria-expanded", String(opens));
  });
  blank();

  // ---------------------------------------------------------------- the drawing, and what it says

  const diagram = hillstart.diagram(at("circles"), box, () => {
    hillstart.open("node");
    document.querySelector("#node").scrollIntoView();
    document.querySelector("#node-name").focus({ preventScroll: true });
  });
  const modes = [...root.querySelectorAll("[data-mode]")];
  modes.forEach((button) =>
    button.addEventListener("click", () => {
      modes.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      diagram.shows(button.dataset.mode);
    }),
  );

  function showAnswer() {
    const { name, label } = box.shown;
    const said = box.classes[box.answer];
    const verdict = label === null || label === undefined ? "" : label === box.answer ? " That is right." : ` That is wrong: it is ${box.classes[label]}.`;
    at("answer").replaceChildren(
      html("span", { class: "soft" }, `${name}: the network says `),
      html("strong", {}, said),
      `, ${box.percent(box.probabilities[box.answer])} sure.`,
      html("span", { class: verdict.includes("wrong") ? "wrong" : "" }, verdict),
    );
    thumbs.forEach((thumb, k) => {
      thumb.setAttribute("aria-pressed", String(k === box.shown.place));
      thumb.tabIndex = k === (box.shown.place ?? 0) ? 0 : -1;
    });
    const thumb = thumbs[box.shown.place];
    if (thumb) strip.scrollTo({ left: thumb.offsetLeft - strip.clientWidth / 2 + thumb.offsetWidth / 2 });
  }

  let before = { node: box.node, edge: box.edge };

  function showChosen() {
    const { l, j } = box.node;
    const edge = box.edge !== before.edge;
    before = { node: box.node, edge: box.edge };
    at("to-chosen").textContent = edge ? "See its gradient" : "See its arithmetic";
    at("to-chosen").href = edge ? "#gradient" : "#node";
    at("chosen").textContent = edge
      ? `Weight from ${box.sourceName(box.edge.l, box.edge.i)} to ${box.nodeName(box.edge.l, box.edge.j)}: ${hillstart.number(box.weight(box.edge))}`
      : `${box.nodeName(l, j)}: weighted sum and bias z = ${text(box.digits.z[l][j])}, activation a = ${text(box.digits.a[l + 1][j])}`;
  }

  box.listen(mark);
  box.listen(showAnswer);
  box.listen(showChosen);
});
