// The network as a drawing: the picture, a column of circles for each layer, and lines between them.
const { svg } = hillstart;
const WIDE = 700;
const LINES = 160; // between two layers, the strongest
const PIXELS = 14; // whose lines to a first node are drawn
const [TOP, BOTTOM] = [46, 14];
const measure = document.createElement("canvas").getContext("2d");

// As much of a name as fits.
function cut(name, width, font) {
  measure.font = font;
  const letters = Array.from(name);
  let n = letters.length;
  const shown = () => (n === letters.length ? name : `${letters.slice(0, n).join("")}…`);
  while (n > 1 && measure.measureText(shown()).width > width) n--;
  return shown();
}

function line(from, to, attributes) {
  return svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y, ...attributes });
}

// `open` is called when a node is to be looked at more closely.
hillstart.diagram = (holder, box, open) => {
  const { net, last } = box;
  const { text } = hillstart.arithmetic;
  const { size } = box.preprocessing;
  // A hidden node matters by the weights that lead on from it, an output by what it says.
  const matters = (l, j) => {
    const n = net.sizes[l + 2];
    return net.w[l + 1].subarray(j * n, (j + 1) * n).reduce((all, v) => all + Math.abs(v), 0);
  };
  const [edges, hits, nodes, still] = ["edges", "hits", "nodes", "still"].map((name) => svg("g", { class: name }));
  const drawing = svg("svg", { class: "network", role: "group", "aria-label": "The network; arrow keys go from circle to circle, Enter opens one" }, still, edges, hits, nodes);
  holder.append(drawing);
  let mode = "weight";
  let hovered = null;
  let plan;

  function shownNodes(l, wide) {
    const n = net.sizes[l + 1];
    const [whole, part] = wide ? [30, 16] : [10, 8];
    const every = Array.from({ length: n }, (_, j) => j);
    if (n <= whole) return every;
    const weight = l === last ? box.run.a.at(-1) : every.map((j) => matters(l, j));
    const must = new Set([box.node.l === l && box.node.j, box.edge?.l === l && box.edge.j, box.edge?.l === l + 1 && box.edge.i, l === last && box.wanted]);
    every.sort((j, k) => must.has(k) - must.has(j) || weight[k] - weight[j]);
    return every.slice(0, part).sort((j, k) => j - k);
  }

  function arranged() {
    const wide = holder.clientWidth >= WIDE;
    const [side, label, gap, least] = wide ? [210, 190, 120, 110] : [78, 78, 38, 60];
    const width = Math.max(holder.clientWidth, side + gap + last * least + label);
    const columns = net.w.map((_, l) => shownNodes(l, wide));
    // Beside an output stand its name and how sure it is, below each other or, where it gets tight, side by side.
    const tight = columns[last].length > (wide ? 15 : 10);
    const tall = columns.map((column, l) => column.length * (wide ? (l === last && !tight ? 42 : 21) : 36));
    const inner = Math.max(...tall, wide ? 300 : 260);
    const middle = TOP + inner / 2;
    const [left, right] = [side + gap, width - label - 16];
    const at = new Map();
    columns.forEach((column, l) => {
      const x = last === 0 ? (left + right) / 2 : left + (l * (right - left)) / last;
      const step = Math.min(inner / column.length, wide ? 64 : 52);
      column.forEach((j, k) => at.set(`${l}.${j}`, { l, j, x, y: middle + (k - (column.length - 1) / 2) * step, r: Math.min(wide ? 14 : 12, step * 0.42) }));
    });
    return { wide, tight, side, label, width, height: TOP + inner + BOTTOM, middle, columns, at };
  }

  const pixelAt = (i) => {
    const [within, part] = [i % (size * size), plan.side / size];
    return { x: ((within % size) + 0.5) * part, y: plan.middle - plan.side / 2 + (Math.floor(within / size) + 0.5) * part };
  };
  const strength = (l, i, j) => net.w[l][i * net.sizes[l + 1] + j] * (mode === "carried" ? box.run.a[l][i] : 1);

  function fill(l, j) {
    const a = box.run.a[l + 1][j];
    const most = l < last && net.activation === "relu" ? Math.max(...box.run.a[l + 1], 1e-9) : 1;
    return `fill: color-mix(in srgb, var(${a < 0 ? "--minus" : "--ink"}) ${(100 * Math.min(Math.abs(a) / most, 1)).toFixed(1)}%, var(--card))`;
  }

  // Lines between the shown nodes of two layers, or from the pixels to one node; the weakest first.
  function linesInto(l, focus) {
    const every = [];
    const ends = plan.columns[l];
    const begins = l ? plan.columns[l - 1] : Array.from(net.w[0], (_, i) => i).slice(0, net.sizes[0]);
    for (const j of l ? ends : [focus.j]) for (const i of begins) every.push({ l, i, j, value: strength(l, i, j) });
    every.sort((e, f) => Math.abs(f.value) - Math.abs(e.value));
    const of = ({ i, j }) => (focus.l === l && focus.j === j) || (focus.l === l - 1 && focus.i === i) || (focus.l === l - 1 && focus.j === i);
    const kept = every.filter((edge, k) => k < (l ? LINES : PIXELS) || (l && of(edge)));
    const most = Math.abs(every[0]?.value) || 1;
    return kept.map((edge) => ({ ...edge, share: Math.abs(edge.value) / most, near: l === 0 || of(edge) })).reverse();
  }

  function drawEdges() {
    const focus = hovered ?? box.node;
    const found = net.w.flatMap((_, l) => (l || focus.l === 0 ? linesInto(l, focus) : []));
    const from = ({ l, i }) => (l ? plan.at.get(`${l - 1}.${i}`) : pixelAt(i));
    const to = ({ l, j }) => plan.at.get(`${l}.${j}`);
    const same = (one, other) => other && one.l === other.l && one.i === other.i && one.j === other.j;
    found.sort((e, f) => e.near - f.near);
    edges.replaceChildren(
      ...found.map((edge) =>
        line(from(edge), to(edge), {
          class: `${edge.value < 0 ? "minus" : "plus"}${same(edge, box.edge) ? " chosen" : ""}`,
          "stroke-width": (0.5 + (plan.wide ? 4 : 3) * edge.share).toFixed(2),
          "stroke-opacity": (edge.near ? 0.35 + 0.65 * edge.share : 0.06 + 0.4 * edge.share).toFixed(2),
        }),
      ),
      ...found.filter((edge) => edge.l === 0).map((edge) => svg("circle", { cx: pixelAt(edge.i).x, cy: pixelAt(edge.i).y, r: 2.5, class: edge.value < 0 ? "minus" : "plus" })),
    );
    hits.replaceChildren(
      ...found.filter((edge) => edge.share > 0.02).map((edge) => line(from(edge), to(edge), { "data-edge": `${edge.l}.${edge.i}.${edge.j}` })),
    );
  }

  function drawNodes() {
    nodes.replaceChildren(
      ...[...plan.at.values()].map(({ l, j, x, y, r }) => {
        const chosen = box.node.l === l && box.node.j === j;
        const name = `${box.nodeName(l, j)}, activation ${text(box.digits.a[l + 1][j])}`;
        return svg(
          "g",
          { class: chosen ? "node chosen" : "node", "data-node": `${l}.${j}`, role: "button", tabindex: chosen ? 0 : -1, "aria-pressed": String(chosen), "aria-label": name },
          svg("title", {}, name),
          chosen && svg("circle", { cx: x, cy: y, r: r + 4, class: "ring" }),
          svg("circle", { cx: x, cy: y, r, style: fill(l, j) }),
        );
      }),
    );
  }

  function drawStill() {
    const { side, middle, columns, at, wide, tight, label } = plan;
    const heading = (x, words, more, anchor = "middle") => [
      svg("text", { x, y: 14, "text-anchor": anchor, class: "heading" }, words),
      svg("text", { x, y: 31, "text-anchor": anchor, class: "soft" }, more),
    ];
    const picture = hillstart.picture.canvas(box.seen, size).toDataURL();
    const drawn = [
      ...heading(0, "picture", `${size} × ${size} ${wide ? "pixels" : ""}`, "start"),
      svg("image", { href: picture, x: 0, y: middle - side / 2, width: side, height: side, preserveAspectRatio: "none" }),
      svg("rect", { x: 0, y: middle - side / 2, width: side, height: side, class: "frame" }),
      ...columns[0].map((j) => at.get(`0.${j}`)).map((end) => line({ x: side, y: middle + ((end.y - middle) * side) / (plan.height - TOP - BOTTOM) }, end, { class: "faint" })),
    ];
    columns.forEach((column, l) => {
      const n = net.sizes[l + 1];
      const part = column.length < n ? `${column.length} of ${n}` : n;
      drawn.push(...heading(at.get(`${l}.${column[0]}`).x, box.layerName(l), wide ? `${part} nodes` : part));
    });
    const room = label - 24;
    for (const j of columns[last]) {
      const { x, y } = at.get(`${last}.${j}`);
      const begin = x + 24;
      const [p, a] = [box.probabilities[j], text(box.digits.a[last + 1][j])];
      const name = cut(box.classes[j], room - (tight ? 70 : 0), "600 14px system-ui");
      const said = { class: j === box.answer ? "said" : "" };
      if (tight) {
        drawn.push(svg("text", { x: begin, y: y + 5, ...said }, name, svg("title", {}, box.classes[j])));
        drawn.push(svg("text", { x: begin + room, y: y + 5, class: "soft", "text-anchor": "end" }, box.percent(p)));
        continue;
      }
      drawn.push(
        svg("text", { x: begin, y: y - 1, ...said }, name, svg("title", {}, box.classes[j])),
        svg("rect", { x: begin, y: y + 4, width: room, height: 3, class: "track" }),
        svg("rect", { x: begin, y: y + 4, width: room * p, height: 3, class: "share" }),
        svg("text", { x: begin, y: y + 20, class: "soft" }, wide ? `a = ${a}, ${box.percent(p)} sure` : box.percent(p)),
      );
    }
    still.replaceChildren(...drawn);
  }

  function draw() {
    if (!holder.clientWidth || matchMedia("print").matches) return;
    plan = arranged();
    drawing.setAttribute("viewBox", `0 0 ${plan.width} ${plan.height}`);
    drawing.setAttribute("width", plan.width);
    drawing.setAttribute("height", plan.height);
    drawing.classList.toggle("narrow", !plan.wide);
    const focused = nodes.contains(document.activeElement);
    drawStill();
    drawEdges();
    drawNodes();
    if (focused) nodes.querySelector(".chosen")?.focus({ preventScroll: true });
  }

  const named = (element, kind) => element.closest(`[data-${kind}]`)?.dataset[kind].split(".").map(Number);

  drawing.addEventListener("click", (event) => {
    const [node, edge] = [named(event.target, "node"), named(event.target, "edge")];
    if (node) box.chooseNode(...node);
    else if (edge) box.chooseEdge({ l: edge[0], i: edge[1], j: edge[2] });
  });
  drawing.addEventListener("pointermove", (event) => {
    const node = event.pointerType === "mouse" && named(event.target, "node");
    if (`${node || ""}` === (hovered ? `${hovered.l},${hovered.j}` : "")) return;
    hovered = node ? { l: node[0], j: node[1] } : null;
    drawEdges();
  });
  drawing.addEventListener("pointerleave", () => {
    hovered = null;
    drawEdges();
  });
  nodes.addEventListener("keydown", (event) => {
    const { l, j } = box.node;
    const n = net.sizes[l + 1];
    const beside = (m) => plan.columns[m]?.reduce((best, k) => (Math.abs(plan.at.get(`${m}.${k}`).y - plan.at.get(`${l}.${j}`).y) < Math.abs(plan.at.get(`${m}.${best}`).y - plan.at.get(`${l}.${j}`).y) ? k : best));
    const goes = { ArrowUp: [l, (j + n - 1) % n], ArrowDown: [l, (j + 1) % n], ArrowLeft: [l - 1, beside(l - 1)], ArrowRight: [l + 1, beside(l + 1)] }[event.key];
    if (event.key === "Enter" || event.key === " ") open();
    else if (!goes) return;
    else if (goes[1] !== undefined) box.chooseNode(...goes);
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(holder);
  box.listen(draw);
  return {
    shows(what) {
      mode = what;
      drawEdges();
    },
  };
};
