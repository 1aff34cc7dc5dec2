// Cost, errors, and the gradient of one weight: by backpropagation, as a step downhill, and by a nudge.
const { html, svg, number, section } = hillstart;
const NUDGES = 17; // h = 1, 0.1, ... 1e-16
const power = (k) => `10${[...String(k)].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("")}`;

section("gradient", (root) => {
  const box = hillstart.box();
  const { maths } = hillstart;
  const { net, last, eta } = box;
  const at = (id) => root.querySelector(`#${id}`);
  const options = (names) => names.map((name, k) => html("option", { value: k, dir: "auto" }, name));
  // With digits enough for a calculator to find what is shown, also where it takes an activation from 1.
  const exact = (a) => number(a, Math.min(15, 6 + Math.max(0, Math.ceil(-Math.log10(Math.abs(1 - Math.abs(a)) || 1e-9)))));
  const factor = (x) => (x < 0 ? `(${number(x, 6)})` : number(x, 6));
  const nodes = (l) => (l === last ? box.classes : Array.from({ length: net.sizes[l + 1] }, (_, k) => box.nodeName(l, k)));
  let listed = null;
  let estimates = [];

  at("wanted").append(...options(box.classes));
  at("edge-layer").append(...options(net.w.map((_, l) => box.layerName(l))));
  at("wanted").addEventListener("change", () => box.want(Number(at("wanted").value)));
  at("edge-layer").addEventListener("change", () => box.chooseEdge({ l: Number(at("edge-layer").value), i: 0, j: 0 }));
  at("edge-to").addEventListener("change", () => box.chooseEdge({ ...box.edge, j: Number(at("edge-to").value) }));
  at("edge-from").addEventListener("change", () => {
    const i = Math.round(at("edge-from").valueAsNumber) - 1;
    box.chooseEdge({ ...box.edge, i: Math.min(Math.max(i || 0, 0), net.sizes[box.edge.l] - 1) });
  });
  at("h").addEventListener("input", showNudge);

  function write(list, lines) {
    list.replaceChildren(...lines.map(([line, note]) => html("li", {}, html("span", { class: "line", dir: "auto" }, line), note && html("span", { class: "soft" }, note))));
  }

  // ---------------------------------------------------------------- cost and errors

  function showCost() {
    const [z, a] = [box.run.z.at(-1), box.run.a.at(-1)];
    const { sigmoid } = maths.ACTIVATIONS;
    const few = a.length <= 4;
    const C = number(maths.cost(net, box.run, box.y));
    const right = Array.from(z, (zk, k) => exact(sigmoid.value(box.y[k] ? zk : -zk)));
    const line = {
      quadratic: few ? `C = ½ × (${Array.from(a, (ak, k) => `(${exact(ak)} − ${box.y[k]})²`).join(" + ")}) = ${C}` : `C = ½ × the sum of (a − y)² over ${a.length} outputs = ${C}`,
      cross_entropy: few ? `C = ${right.map((p) => `− ln ${p}`).join(" ").replace("− ", "−")} = ${C}` : `C = the sum of −ln over ${a.length} outputs = ${C}`,
      log_likelihood: `C = −ln ${exact(a[box.wanted])} = ${C}`,
    }[net.cost];
    const note = {
      quadratic: "half the squared distance of the outputs a from y, which is 1 for the right class and 0 for the others",
      cross_entropy: "of each output, −ln of how near it is to what it should be: its a for the right class, 1 − a for the others",
      log_likelihood: "−ln of the output of the right class: the cost is 0 when that is 1",
    }[net.cost];
    write(at("cost-lines"), [[line, note]]);
  }

  function showDeltas() {
    at("deltas").replaceChildren(
      ...box.delta
        .map((delta, l) => {
          const sizes = Array.from(delta, Math.abs);
          const most = Math.max(...sizes);
          const top = sizes.indexOf(most);
          const bars = Array.from(delta, (d, j) => svg("rect", { x: j + 0.08, width: 0.84, y: d > 0 ? 1 - d / (most || 1) : 1, height: Math.abs(d) / (most || 1), class: d < 0 ? "minus" : "plus" }, svg("title", {}, `${box.nodeName(l, j)}: ${number(d)}`)));
          const said = most ? `largest: ${number(delta[top])}, of ${box.nodeName(l, top)}` : "all are 0";
          return html(
            "div",
            { class: "layer" },
            html("span", { class: "name", dir: "auto" }, box.layerName(l), html("span", { class: "soft" }, said)),
            svg("svg", { viewBox: `0 0 ${delta.length} 2`, preserveAspectRatio: "none", role: "img", "aria-label": `Errors of ${box.layerName(l)}, ${said}`, style: `max-width: ${delta.length * 3.2}rem` }, ...bars, svg("line", { x1: 0, x2: delta.length, y1: 1, y2: 1 })),
          );
        })
        .reverse(),
    );
  }

  // ---------------------------------------------------------------- one weight

  function errorLine({ l, j }) {
    const [a, d] = [box.run.a[l + 1][j], box.delta[l][j]];
    const name = `δ of ${box.nodeName(l, j)}`;
    const y = box.y[j];
    if (l === last && net.cost !== "quadratic") return [`${name} = ${exact(a)} − ${y} = ${number(d, 6)}`, "a − y: what it says less what it should say"];
    if (l === last) return [`${name} = (${exact(a)} − ${y}) × ${exact(a)} × (1 − ${exact(a)}) = ${number(d, 6)}`, "(a − y) × a × (1 − a): how wrong it is, times how steep σ is there"];
    let back = 0;
    for (let k = 0; k < box.delta[l + 1].length; k++) back += box.weight({ l: l + 1, i: j, j: k }) * box.delta[l + 1][k];
    const slope = { sigmoid: `${exact(a)} × (1 − ${exact(a)})`, tanh: `(1 − ${a < 0 ? `(${exact(a)})` : exact(a)}²)`, relu: a > 0 ? "1" : "0" }[net.activation];
    return [`${name} = ${number(back, 6)} × ${slope} = ${number(d, 6)}`, "the errors of the layer above, each times the weight to it, summed; times how steep the activation is there"];
  }

  function showEdge() {
    const { l, i, j } = box.edge;
    const list = `${l} of ${net.sizes}`;
    if (listed !== list) at("edge-to").replaceChildren(...options(nodes(l)));
    listed = list;
    at("edge-layer").value = l;
    at("edge-to").value = j;
    at("edge-from").max = net.sizes[l];
    at("edge-from").value = i + 1;
    const w = box.weight(box.edge);
    const slope = maths.gradient(box.run, box.delta, box.edge);
    const step = -eta * slope;
    at("edge-name").textContent = `From ${box.sourceName(l, i)} to ${box.nodeName(l, j)}: w = ${number(w, 6)}`;
    write(at("edge-lines"), [
      errorLine(box.edge),
      [`gradient = ${number(box.run.a[l][i], 6)} × ${factor(box.delta[l][j])} = ${number(slope, 6)}`, "what comes in, a, times the error δ of where it goes: how fast the cost rises with this weight"],
      [`step = −η × gradient = −${number(eta)} × ${factor(slope)} = ${number(step, 6)}`, "downhill: against the slope"],
      [`new w = ${number(w, 6)} ${step < 0 ? "−" : "+"} ${number(Math.abs(step), 6)} = ${number(w + step, 6)}`, ""],
    ]);
  }

  function showSteps() {
    const now = maths.cost(net, box.run, box.y);
    const slope = maths.gradient(box.run, box.delta, box.edge);
    const found = [
      ["now", now],
      ["after the step of this weight alone", maths.costWith(net, box.run, box.y, box.edge, box.weight(box.edge) - eta * slope)],
      ["after the step of all weights and biases", maths.costAfter(net, box.run, box.delta, box.y, eta)],
    ];
    const most = Math.max(...found.map(([, C]) => C)) || 1;
    at("steps").replaceChildren(
      ...found.map(([name, C]) => html("div", {}, html("span", {}, name), html("span", { class: "track" }, html("span", { style: `width: ${(100 * C) / most}%` })), html("span", { class: "cost" }, number(C, 6)))),
    );
    const overshot = found[2][1] > now;
    if (overshot) at("steps").append(html("p", { class: "soft" }, "The step of all was too long: it went across the valley and up on the other side. A smaller η would go down."));
  }

  // ---------------------------------------------------------------- the nudge

  function nudge() {
    const w = box.weight(box.edge);
    const C = (value) => maths.costWith(net, box.run, box.y, box.edge, value);
    const slope = maths.gradient(box.run, box.delta, box.edge);
    estimates = Array.from({ length: NUDGES }, (_, k) => {
      const h = Number(`1e-${k}`);
      const found = (C(w + h) - C(w - h)) / (2 * h);
      return { h, found, error: Math.abs(found - slope) };
    });
  }

  // Digits that agree with the gradient stand out.
  function agreeing(found, slope) {
    const [shown, other] = [number(found, 12), number(slope, 12)];
    const exponent = (words) => words.split("e")[1];
    let same = 0;
    while (exponent(shown) === exponent(other) && same < shown.length && shown[same] === other[same]) same++;
    return [html("strong", {}, shown.slice(0, same)), shown.slice(same)];
  }

  function showNudge() {
    const k = Number(at("h").value);
    const slope = maths.gradient(box.run, box.delta, box.edge);
    const { h, found, error } = estimates[k];
    at("h-value").textContent = k < 5 ? String(h) : power(-k);
    at("h").setAttribute("aria-valuetext", `h = 1e−${k}: ${number(found)}`);
    at("difference").replaceChildren(...agreeing(found, slope));
    at("by-backpropagation").textContent = number(slope, 12);
    at("they-differ").textContent = number(error, 2);
    const [W, H, left, foot] = [at("differences").clientWidth || 620, 210, 54, 34];
    // Where nothing is left to tell them apart, the point lies at the bottom.
    const exponents = estimates.map((one) => Math.max(Math.log10(one.error), -20));
    const real = exponents.filter((one) => one > -20);
    const [low, high] = [Math.floor(Math.min(...real, -12)), Math.ceil(Math.max(...real, -11))];
    const best = exponents.indexOf(Math.min(...exponents));
    const px = (m) => left + 12 + (m / (NUDGES - 1)) * (W - left - 30);
    const py = (exponent) => 12 + ((high - Math.max(exponent, low)) / (high - low)) * (H - 12 - foot);
    const label = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor }, words);
    const levels = [high, Math.round((low + high) / 2), low];
    at("differences").replaceChildren(
      svg(
        "svg",
        { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `The difference is least at h = ${power(-best)}` },
        ...levels.flatMap((level) => [svg("line", { x1: left, x2: W - 8, y1: py(level), y2: py(level), class: "grid" }), label(left - 8, py(level) + 4, "end", power(level))]),
        ...[0, 4, 8, 12, 16].map((m) => label(px(m), H - 8, "middle", m ? power(-m) : "h = 1")),
        svg("polyline", { points: exponents.map((one, m) => `${px(m)},${py(one)}`).join(" "), class: "curve" }),
        ...exponents.map((one, m) => svg("circle", { cx: px(m), cy: py(one), r: m === k ? 7 : 3.5, class: m === k ? "ball" : "point" })),
      ),
    );
  }

  function show() {
    at("wanted").value = box.wanted;
    showCost();
    showDeltas();
    showEdge();
    showSteps();
    nudge();
    showNudge();
  }

  box.listen(show);
  new ResizeObserver(showNudge).observe(at("differences"));
});
