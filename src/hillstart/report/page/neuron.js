// One neuron whose numbers the reader sets: its drawing, its arithmetic, and its place on the curve of the sigmoid.
const { svg, number, section } = hillstart;

section("neuron", (root) => {
  const { listed, thousandths, text } = hillstart.arithmetic;
  const sigmoid = hillstart.maths.ACTIVATIONS.sigmoid.value;
  const at = (id) => root.querySelector(`#neuron-${id}`);
  const settings = [...root.querySelectorAll(".neuron-setting")].map((setting) => {
    const [slider, field] = setting.querySelectorAll("input");
    return { slider, field, first: field.valueAsNumber };
  });

  // In hundredths, so that every product can be written out: it has four decimals at most.
  const hundredths = (x) => Math.round(100 * x) / 100;
  const shown = (x) => number(x, 9);
  const factor = (x, first) => (x < 0 && !first ? `(${shown(x)})` : shown(x));

  function set({ slider, field }, value) {
    slider.value = value;
    field.value = slider.value; // within its bounds
  }

  settings.forEach((setting) => {
    const { slider, field, first } = setting;
    slider.addEventListener("input", () => {
      field.value = slider.value;
      show();
    });
    field.addEventListener("input", () => {
      if (!field.validity.valid || field.value === "") return; // not yet typed in full
      slider.value = field.value;
      show();
    });
    field.addEventListener("change", () => {
      set(setting, field.value === "" ? first : hundredths(field.valueAsNumber));
      show();
    });
  });
  at("again").addEventListener("click", () => {
    settings.forEach((setting) => set(setting, setting.first));
    show();
  });

  function drawing(x, w, b, z, a) {
    const [W, H, r] = [360, 252, 40];
    const neuron = { x: 214, y: 136 };
    const label = (px, py, words, name, anchor = "middle") => svg("text", { x: px, y: py, "text-anchor": anchor, class: name }, words);
    // A number on a line, on a plate that keeps it readable.
    const plate = (px, py, value) => {
      const width = 9 * shown(value).length + 8;
      return [svg("rect", { x: px - width / 2, y: py - 11, width, height: 22, class: "plate" }), label(px, py + 5, shown(value))];
    };
    const sign = (value) => (value < 0 ? "minus" : value ? "plus" : "faint");
    const line = (from, to, value) => svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y, class: sign(value), "stroke-width": 1 + 1.6 * Math.abs(value) });
    const inputs = x.map((_, k) => ({ x: 32, y: 52 + 84 * k }));
    const bias = { x: neuron.x, y: 34 };
    const level = neuron.y + r - 2 * r * a;
    const words = x.map((xk, k) => `input ${shown(xk)} with weight ${shown(w[k])}`).join(", ");
    return svg(
      "svg",
      { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `A neuron: ${words}, bias ${shown(b)}; it sends out ${text(thousandths(a))}` },
      svg("clipPath", { id: "neuron-level" }, svg("rect", { x: neuron.x - r, y: level, width: 2 * r, height: 2 * r })),
      ...inputs.map((from, k) => line(from, neuron, w[k])),
      line(bias, neuron, b),
      svg("line", { x1: neuron.x, y1: neuron.y, x2: 290, y2: neuron.y, class: "way" }),
      svg("path", { d: `M283,${neuron.y - 6}l8,6l-8,6`, class: "way" }),
      svg("circle", { cx: neuron.x, cy: neuron.y, r, class: "body" }),
      svg("circle", { cx: neuron.x, cy: neuron.y, r, class: "level", "clip-path": "url(#neuron-level)" }),
      svg("circle", { cx: neuron.x, cy: neuron.y, r, class: "rim" }),
      label(neuron.x, neuron.y - 5, "z", "soft"),
      label(neuron.x, neuron.y + 14, shown(z)),
      ...inputs.map((from, k) => [
        svg("circle", { cx: from.x, cy: from.y, r: 24, class: "input" }),
        label(from.x, from.y + 5, shown(x[k])),
        plate(from.x + 0.46 * (neuron.x - from.x), from.y + 0.46 * (neuron.y - from.y), w[k]),
      ]),
      label(bias.x, bias.y - 14, "bias", "soft"),
      plate(bias.x, bias.y, b),
      label(32, 16, "inputs", "soft"),
      label(114, 16, "weights", "soft"),
      label(298, neuron.y + 6, text(thousandths(a)), "out", "start"),
      label(298, neuron.y - 18, "goes out", "soft", "start"),
    );
  }

  function show() {
    const values = settings.map(({ slider }) => hundredths(slider.valueAsNumber));
    const b = values.pop();
    const [x, w] = [0, 1].map((part) => values.filter((_, k) => k % 2 === part));
    // In ten-thousandths, which are whole numbers.
    const sum = x.reduce((all, xk, k) => all + Math.round(100 * xk) * Math.round(100 * w[k]), 0) / 1e4;
    const z = Math.round(1e4 * (sum + b)) / 1e4;
    const a = sigmoid(z);
    const out = text(thousandths(a));
    const products = x.map((xk, k) => `${factor(xk, k === 0)} × ${factor(w[k])}`).join(" + ");
    const lines = [`${products} = ${shown(sum)}`, `${shown(sum)}${b < 0 ? ` − ${shown(-b)}` : ` + ${shown(b)}`} = ${shown(z)}`, `σ(${shown(z)}) = 1 / (1 + e^${shown(-z)}) = ${out}`];
    at("drawing").replaceChildren(drawing(x, w, b, z, a));
    at("lines").replaceChildren(...listed(lines, ["inputs times weights, summed", "plus the bias: z", "through the sigmoid function σ: what goes out"]));
    at("curve").replaceChildren(hillstart.curve({ value: sigmoid, z, a }));
    at("said").textContent = `${out} goes out`;
  }

  show();
});
