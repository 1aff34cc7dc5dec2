// One node: its arithmetic in text, where its sum comes from, and its activation on the curve.
const { html, section } = hillstart;
const PAGE = 12;

section("node", (root) => {
  const box = hillstart.box();
  const { net, last } = box;
  const { text, order, product, sumLines, activationLine, softmaxLines, listed } = hillstart.arithmetic;
  const { size, channels } = box.preprocessing;
  const { diverging, paint } = hillstart.picture;
  const at = (id) => root.querySelector(`#${id}`);
  const options = (names) => names.map((name, k) => html("option", { value: k, dir: "auto" }, name));
  const before = { list: "", node: "", first: 0 };

  at("node-layer").append(...options(net.w.map((_, l) => box.layerName(l))));
  at("node-layer").addEventListener("change", () => box.chooseNode(Number(at("node-layer").value), 0));
  at("node-number").addEventListener("change", () => box.chooseNode(box.node.l, Number(at("node-number").value)));
  const turn = (by) => () => {
    before.first += by;
    showTerms();
  };
  at("terms-before").addEventListener("click", turn(-PAGE));
  at("terms-after").addEventListener("click", turn(PAGE));
  at("node-name").tabIndex = -1;

  function weightsInto({ l, j }) {
    const n = net.sizes[l + 1];
    return Float64Array.from({ length: net.sizes[l] }, (_, i) => net.w[l][i * n + j]);
  }

  const softmax = (l) => l === last && net.cost === "log_likelihood";
  const activation = (l) => (l === last ? "sigmoid" : net.activation);

  function arithmetic() {
    const { l, j } = box.node;
    const weights = Array.from(weightsInto(box.node), hillstart.arithmetic.thousandths);
    const bias = hillstart.arithmetic.thousandths(net.b[l][j]);
    return { inputs: box.digits.a[l], weights, bias, z: box.digits.z[l][j] };
  }

  function showLines() {
    const { l, j } = box.node;
    const { inputs, weights, bias, z } = arithmetic();
    const end = softmax(l) ? softmaxLines(box.digits.z[l], j) : [activationLine(activation(l), z)];
    const lines = [...sumLines(inputs, weights, bias, z), ...end];
    const notes = ["inputs times weights, summed", "plus the bias: z", ...lines.slice(2, -1).map(() => ""), softmax(l) ? "its share, the softmax: a" : "through the activation: a"];
    at("node-name").textContent = box.nodeName(l, j);
    at("node-lines").replaceChildren(...listed(lines, notes));
  }

  // ---------------------------------------------------------------- where it comes from

  function from(l, i) {
    const { colour, row, column } = box.pixel(i);
    return l ? box.nodeName(l - 1, i) : `${colour}${row}, ${column}`;
  }

  function showTerms() {
    const { l } = box.node;
    const { inputs, weights, bias, z } = arithmetic();
    const places = order(inputs, weights);
    const pages = Math.ceil(places.length / PAGE);
    before.first = Math.min(Math.max(before.first, 0), (pages - 1) * PAGE);
    const shown = places.slice(before.first, before.first + PAGE);
    const found = shown.map((i) => product(inputs[i], weights[i]));
    const together = found.reduce((all, n) => all + n, 0);
    const widest = Math.abs(product(inputs[places[0]], weights[places[0]])) || 1;
    const row = (name, value) => html("tr", {}, html("th", { scope: "row", colspan: 2 }, name), html("td", { class: "number" }, text(value)), html("td", {}));
    at("terms").tBodies[0].replaceChildren(
      ...shown.map((i, k) => {
        const share = (50 * Math.abs(found[k])) / widest;
        const bar = html("span", { class: found[k] < 0 ? "minus" : "plus", style: `width: ${share}%; left: ${found[k] < 0 ? 50 - share : 50}%` });
        return html(
          "tr",
          {},
          html("td", { dir: "auto" }, from(l, i)),
          html("td", { class: "number" }, `${text(inputs[i])} × ${weights[i] < 0 ? `(${text(weights[i])})` : text(weights[i])}`),
          html("td", { class: "number" }, text(found[k])),
          html("td", { "aria-hidden": "true" }, html("span", { class: "bar" }, bar)),
        );
      }),
    );
    const others = places.length - shown.length;
    at("terms").tFoot.replaceChildren(
      ...(others ? [row(`these ${shown.length}`, together), row(`the other ${others}`, z - bias - together)] : []),
      ...(!others && z - bias !== together ? [row("lost by rounding", z - bias - together)] : []),
      row(`all ${places.length}: the weighted sum`, z - bias),
    );
    at("terms-from").textContent = l ? "from" : "pixel: row, column";
    at("terms-before").disabled = before.first === 0;
    at("terms-after").disabled = before.first + PAGE >= places.length;
    at("terms-page").textContent = `${before.first + 1} to ${before.first + shown.length} of ${places.length}`;
    for (const name of ["terms-before", "terms-after"]) at(name).hidden = pages === 1;
  }

  function showPictures() {
    at("node-pictures").hidden = box.node.l !== 0;
    if (box.node.l !== 0) return;
    const weights = weightsInto(box.node);
    const x = box.run.a[0];
    paint(at("seen-input"), box.seen, size);
    paint(at("seen-weights"), diverging(weights, size), size);
    paint(at("seen-product"), diverging(weights.map((w, i) => w * x[i]), size), size);
    at("seen-input").setAttribute("aria-label", box.shown.name);
    const { mean, std } = box.preprocessing;
    const standard = mean.some((m) => m !== 0) || std.some((s) => s !== 1);
    at("input-scale").textContent = standard
      ? `Inputs are the pixels, shifted and scaled so that over all training pictures their mean is 0 and their spread 1: dark ones are below zero.${channels === 3 ? " The three colours are added up here." : ""}`
      : "Inputs are the pixels: 0 is black, 1 is white.";
  }

  // ---------------------------------------------------------------- the curve

  function showCurve() {
    const { l, j } = box.node;
    const [z, a] = [box.run.z[l][j], box.run.a[l + 1][j]];
    const how = softmax(l) ? "softmax" : activation(l);
    // Of a softmax: how this output would follow its own z, if the z of the other classes stayed.
    const others = softmax(l) ? Math.log(1 / a - 1) + z : 0;
    const value = { sigmoid: (v) => 1 / (1 + Math.exp(-v)), softmax: (v) => 1 / (1 + Math.exp(others - v)), ...Object.fromEntries(["tanh", "relu"].map((name) => [name, hillstart.maths.ACTIVATIONS[name].value])) }[how];
    const centre = how === "softmax" && Number.isFinite(others) ? others : 0;
    const range = { tanh: () => [-1, 1, -1], relu: (reach) => [-0.15 * reach, reach, 0] }[how];
    at("curve-title").textContent = { sigmoid: "σ squeezes every sum between 0 and 1", softmax: "Softmax: outputs share 1 among them", tanh: "tanh squeezes every sum between −1 and 1", relu: "ReLU lets pass what is above 0" }[how];
    at("curve").replaceChildren(hillstart.curve({ value, z, a, centre, range }));
    at("curve-caption").textContent = how === "softmax" ? "Across: z of this class, while those of the others stay. Up: its output a." : "Across: the weighted sum with its bias, z. Up: the activation a.";
  }

  function show() {
    const { l, j } = box.node;
    const list = `${l} of ${net.sizes}`;
    if (before.list !== list) {
      const names = l === last ? box.classes : Array.from({ length: net.sizes[l + 1] }, (_, k) => String(k + 1));
      at("node-number").replaceChildren(...options(names));
    }
    if (before.node !== `${l}.${j}`) before.first = 0;
    Object.assign(before, { list, node: `${l}.${j}` });
    at("node-layer").value = l;
    at("node-number").value = j;
    showLines();
    showTerms();
    showPictures();
    showCurve();
  }

  box.listen(show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showPictures);
});
