// Networks that learn while one looks: a worker trains them, and what it tells is drawn here.
const { html, svg, number, ticks, decades, section } = hillstart;
const TOGETHER = 30; // epochs that Play trains before it stops by itself
const TILES = 60; // nodes whose weights are shown as pictures
const POINTS = 61; // of the line through the ball
const NEVER = -1;

// ---------------------------------------------------------------- in the worker

// Orders: load { train, val }, begin { like, seeds, eta, batch, shown, node, change }, set some of the last five, step, to
// { epoch }, give { start }. After each quarter of a second, or an epoch, or an order that changes what is seen, it tells how things stand.
function work(hillstart, self, POINTS) {
  const { generator, begun, shuffled, descend, measured } = hillstart.descent;
  const TOLD = 250; // milliseconds
  const of = {};
  let nets, first, g, order, place, epochs, goal, running, last;

  const now = () => epochs + place / of.train.length;

  function step() {
    if (place === 0) order = shuffled(of.train.length, g);
    const batch = order.slice(place, place + of.batch).map((k) => of.train[k]);
    for (const net of nets) descend(net, batch, of.eta);
    place += batch.length;
    if (place < order.length) return;
    place = 0;
    epochs += 1;
  }

  function advance() {
    const until = Date.now() + TOLD;
    while (now() < goal) {
      step();
      if (place === 0 || Date.now() > until) break;
    }
    running = now() < goal;
    tell();
    if (running) setTimeout(advance);
  }

  function tell() {
    const net = nets[of.shown];
    const line = lineThrough(net);
    const found = nets.map((other, s) => {
      const train = measured(other, of.train, s === of.shown ? line : null);
      const val = measured(other, of.val);
      return { cost: train.cost, right: train.right, along: train.along, unseen: val.right, unseenCost: val.cost };
    });
    const weights = Float32Array.from(net.w[0], (w, k) => (of.change ? w - first[of.shown][k] : w));
    self.postMessage({ kind: "told", begun: of.begun, last, epoch: now(), running, found, weights, shown: of.shown, change: of.change, line });
  }

  // The weight of the last layer, to its first node, from the shown node or, in a deeper network, from one like it.
  function lineThrough(net) {
    const [n, m] = net.sizes.slice(-2);
    const i = of.node % n;
    const w = net.w.at(-1)[i * m];
    let reach = 3;
    while (reach < 1.25 * Math.abs(w)) reach *= 2;
    return { i, j: 0, w, reach, values: Array.from({ length: POINTS }, (_, k) => reach * ((2 * k) / (POINTS - 1) - 1)) };
  }

  const orders = {
    load(given) {
      Object.assign(of, given);
    },
    begin(given) {
      Object.assign(of, given);
      nets = of.seeds.map((seed) => begun(of.like, seed));
      first = nets.map((net) => Float64Array.from(net.w[0]));
      g = generator(0);
      [place, epochs, goal] = [0, 0, 0];
      tell();
    },
    to({ epoch }) {
      goal = epoch;
      if (!running) advance();
    },
    step() {
      goal = 0;
      step();
      tell();
    },
    set(given) {
      Object.assign(of, given);
      if (!running) tell();
    },
    give({ start }) {
      const { w, b, sizes } = nets[start];
      self.postMessage({ kind: "given", start, epoch: now(), network: { w, b, sizes } });
    },
  };
  self.onmessage = ({ data: { order: name, sent, ...given } }) => {
    last = sent;
    orders[name](given);
  };
}

// ---------------------------------------------------------------- in the page

section("live", (root, data) => {
  const box = hillstart.box();
  const { size } = box.preprocessing;
  const at = (id) => root.querySelector(`#live-${id}`);
  const hidden = [...root.querySelectorAll(".live-hidden")];
  const shows = [...root.querySelectorAll("[data-show]")];
  let seeds = [...data.seeds];
  let [worker, told, tiles, asked, count, sent, going] = [null, null, [], 0, 0, 0, 0];
  let [shown, node, change, playing] = [0, 0, true, false];
  let paths = [];

  // ---------------------------------------------------------------- what is asked for

  function complain(sentence) {
    at("wrong").textContent = sentence;
    at("wrong").hidden = !sentence;
    return !sentence;
  }

  // True if all settings can be used; else the reader is told which cannot.
  function settle() {
    const [eta, batch] = [at("eta").valueAsNumber, at("batch").valueAsNumber];
    const nodes = hidden.map((input) => input.valueAsNumber);
    const whole = (n, low, high) => Number.isInteger(n) && n >= low && n <= high;
    const sizes = [data.sizes[0], ...nodes, data.sizes.at(-1)];
    const weights = sizes.slice(1).reduce((all, n, l) => all + n * sizes[l], 0);
    const most = Number(at("batch").max);
    if (!(eta > 0)) return complain("η must be a number above 0, such as 0.1.");
    if (!whole(batch, 1, most)) return complain(`The mini-batch must be a whole number from 1 to ${most}.`);
    if (!nodes.every((n) => whole(n, 1, Infinity))) return complain("A hidden layer must have a whole number of nodes, 1 or more.");
    if (weights > data.most_weights) return complain(`These are ${weights} weights; up to ${data.most_weights} can be trained here: take fewer nodes.`);
    if (!seeds.every((seed) => whole(seed, 0, 2 ** 32 - 1))) return complain("A seed must be a whole number from 0 to 4294967295.");
    Object.assign(box.live, { eta, batch, sizes });
    return complain("");
  }

  function order(name, given = {}) {
    worker?.postMessage({ order: name, sent: ++sent, ...given });
  }

  function begin() {
    if (!settle()) return;
    told = null; // of other networks
    paths = seeds.map(() => []);
    shown = Math.min(shown, seeds.length - 1);
    node = Math.min(node, box.live.sizes[1] - 1);
    const { activation, cost } = box.net;
    const like = { sizes: box.live.sizes, activation, cost, start: data.start };
    setPlaying(false);
    rows();
    pictures();
    order("begin", { begun: ++count, like, seeds, eta: box.live.eta, batch: box.live.batch, shown, node, change });
  }

  function setPlaying(value) {
    playing = value;
    at("play").textContent = playing ? "Pause" : "Play";
    for (const name of ["step", "epoch"]) at(name).disabled = playing;
  }

  function play(epoch) {
    if (!settle()) return;
    setPlaying(true);
    go(epoch);
  }

  // What is told before the worker has heard of this says nothing about whether it goes on.
  function go(epoch) {
    order("to", { epoch });
    going = sent;
  }

  at("play").addEventListener("click", () => {
    if (!playing) return play((Math.floor((told?.epoch ?? 0) / TOGETHER) + 1) * TOGETHER);
    go(NEVER);
  });
  at("epoch").addEventListener("click", () => play(Math.floor(told?.epoch ?? 0) + 1));
  at("step").addEventListener("click", () => settle() && order("step"));
  at("again").addEventListener("click", begin);
  for (const input of [at("eta"), at("batch")]) input.addEventListener("change", () => settle() && order("set", { eta: box.live.eta, batch: box.live.batch }));
  for (const input of hidden) input.addEventListener("change", begin);
  at("starts").addEventListener("change", () => {
    const wanted = Number(at("starts").value);
    for (let seed = 0; seeds.length < wanted; seed++) if (!seeds.includes(seed)) seeds.push(seed);
    seeds = seeds.slice(0, wanted);
    begin();
  });
  shows.forEach((button) =>
    button.addEventListener("click", () => {
      change = button.dataset.show === "change";
      shows.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      order("set", { change });
    }),
  );

  // ---------------------------------------------------------------- the starts

  function rows() {
    at("starts").value = seeds.length;
    at("table").tBodies[0].replaceChildren(
      ...seeds.map((seed, s) =>
        html(
          "tr",
          {},
          html(
            "td",
            {},
            html("label", {}, html("input", { type: "radio", name: "live", "aria-label": `show the start with seed ${seed}`, checked: s === shown, onchange: () => show(s) }),
              html("input", { type: "number", min: 0, step: 1, value: seed, "aria-label": `seed of start ${s + 1}`, onchange: (event) => seedOf(s, event.target.valueAsNumber) })),
          ),
          ...["cost", "right", "unseen"].map((name) => html("td", { class: "number", "data-cell": name }, "…")),
          html("td", {}, html("button", { type: "button", class: "button small", "aria-label": `Open the start with seed ${seed} in the sections above`, onclick: () => order("give", { start: s }) }, "Open")),
        ),
      ),
    );
    mark();
  }

  function mark() {
    [...at("table").tBodies[0].rows].forEach((row, s) => row.classList.toggle("shown", s === shown));
  }

  function seedOf(s, seed) {
    seeds[s] = seed;
    begin();
  }

  function show(s) {
    shown = s;
    mark();
    order("set", { shown });
  }

  function opened({ start, epoch, network }) {
    for (const name of ["network", "node", "gradient"]) hillstart.open(name);
    box.put(network, `the start with seed ${seeds[start]} of “Let it learn”, after ${number(epoch, 3)} epochs`);
    document.querySelector("#network").scrollIntoView();
    document.querySelector("#network .opened button").focus({ preventScroll: true });
  }

  // ---------------------------------------------------------------- what is told

  function heard(found) {
    if (found.begun !== count) return; // of networks that are no longer there
    told = found;
    found.found.forEach(({ cost, unseenCost }, s) => {
      const path = paths[s];
      if (path.at(-1)?.epoch !== found.epoch) path.push({ epoch: found.epoch, cost, unseenCost });
      if (s === found.shown) Object.assign(path.at(-1), { i: found.line.i, w: found.line.w });
    });
    if (playing && !found.running && found.last >= going) {
      setPlaying(false);
      at("said").textContent = `Stopped at ${words()}. ${found.found.map(({ cost }, s) => `Seed ${seeds[s]}: cost ${number(cost, 3)}`).join(". ")}.`;
    }
    asked ||= requestAnimationFrame(draw);
  }

  const words = () => `epoch ${told.epoch < 10 ? number(told.epoch, 3) : number(told.epoch, 4)}`;
  const percent = (share) => `${(100 * share).toFixed(share < 1 ? 1 : 0)} %`;

  function draw() {
    asked = 0;
    if (!told) return;
    at("now").textContent = words();
    root.classList.toggle("learned", told.epoch > 0); // before that there is nothing to print
    [...at("table").tBodies[0].rows].forEach((row, s) => {
      const { cost, right, unseen } = told.found[s];
      const cells = { cost: number(cost, 3), right: percent(right), unseen: percent(unseen) };
      row.querySelectorAll("[data-cell]").forEach((cell) => (cell.textContent = cells[cell.dataset.cell]));
    });
    if (told.found.some(({ cost }) => !(cost < 1e6))) complain("The steps are too long: a cost has exploded. Take a smaller η and start again.");
    drawCosts();
    drawHill();
    drawWeights();
  }

  // A chart of costs with its axes; `inside` gets x and y, which turn numbers into places, and the floor. Costs are on a logarithmic scale,
  // which begins two decades below the first cost and goes on as far down as the costs go.
  function chart(holder, [left, right], name, label, inside) {
    const W = holder.clientWidth;
    if (!W) return;
    const costs = sound(paths.flatMap((path) => path.map(({ cost }) => cost)));
    const high = 1.5 * Math.max(...costs.slice(0, paths.length), 1e-9);
    const low = Math.min(high / 150, Math.min(...costs) / 1.5 || Infinity);
    const H = Math.round(Math.min(330, Math.max(230, W * 0.6)));
    const [l, r, t, b] = [46, 12, 12, 42];
    const x = (v) => l + ((v - left) / (right - left)) * (W - l - r);
    const y = (c) => H - b - (Math.log(Math.min(Math.max(c, low / 2), 2 * high) / low) / Math.log(high / low)) * (H - t - b);
    const text = (px, py, words, anchor = "middle") => svg("text", { x: px, y: py, "text-anchor": anchor }, words);
    const clip = `${holder.id}-inside`;
    holder.replaceChildren(
      svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": label },
        svg("clipPath", { id: clip }, svg("rect", { x: l - 9, y: t - 9, width: W - l - r + 18, height: H - t - b + 18 })),
        decades(low, high).map((v) => [svg("line", { class: "hill-axis", x1: l, x2: W - r, y1: y(v), y2: y(v) }), text(l - 7, y(v) + 4, number(v), "end")]),
        svg("g", { "clip-path": `url(#${clip})` }, inside(x, y, H - b)),
        ticks(left, right, W < 400 ? 5 : 7).map((v) => text(x(v), H - b + 17, number(v))),
        text((l + W - r) / 2, H - 6, name),
        svg("text", { transform: `translate(11 ${(H - b + t) / 2}) rotate(-90)`, "text-anchor": "middle" }, "cost")),
    );
  }

  const sound = (values) => values.filter(Number.isFinite);
  const drawn = (points) => points.filter(([px, py]) => Number.isFinite(px) && Number.isFinite(py)).map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
  const ball = (cls, r, [cx, cy]) => Number.isFinite(cy) && svg("circle", { class: cls, cx, cy, r });

  function drawCosts() {
    const right = TOGETHER * Math.max(1, Math.ceil(told.epoch / TOGETHER));
    const label = `The cost of each start on its training pictures, epoch by epoch; at ${words()} that of the shown start is ${number(told.found[shown].cost, 3)}`;
    chart(at("costs"), [0, right], "epoch", label, (x, y) => {
      const line = (path, name) => path.map((of) => [x(of.epoch), y(of[name])]);
      const lines = paths.map((path) => line(path, "cost"));
      const others = lines.filter((_, s) => s !== shown);
      return [
        others.map((points) => [svg("polyline", { class: "live-other", points: drawn(points) }), ball("live-other", 3.5, points.at(-1))]),
        svg("polyline", { class: "live-unseen", points: drawn(line(paths[shown], "unseenCost")) }),
        svg("polyline", { class: "live-chosen", points: drawn(lines[shown]) }),
        ball("hill-ball", 8, lines[shown].at(-1)),
      ];
    });
  }

  function drawHill() {
    const { line, found } = told;
    const { along, cost } = found[told.shown];
    const passed = paths[told.shown].filter(({ i }) => i === line.i);
    const last = box.net.w.length - 1;
    const from = last ? `${box.layerName(last - 1)}.${line.i + 1}` : box.sourceName(0, line.i);
    at("weight").textContent = `the one from ${from} to ${box.nodeName(last, line.j)}`;
    chart(at("hill"), [-line.reach, line.reach], "its value", `The cost along one weight; the ball is at ${number(line.w, 3)}, cost ${number(cost, 3)}`, (x, y, floor) => {
      const points = drawn(Array.from(along, (c, k) => [x(line.values[k]), y(c)]));
      const trail = passed.map((of) => [x(of.w), y(of.cost)]);
      return [
        svg("polygon", { class: "hill-ground", points: `${x(-line.reach)},${floor} ${points} ${x(line.reach)},${floor}` }),
        svg("polyline", { class: "hill-curve", points }),
        svg("polyline", { class: "hill-trail", points: drawn(trail) }),
        trail.map((place) => ball("hill-dot", 2.2, place)),
        ball("hill-ball", 8, [x(line.w), y(cost)]),
      ];
    });
  }

  // ---------------------------------------------------------------- the weights as pictures

  const nameOf = (j) => (box.last ? `${box.layerName(0)}.${j + 1}` : box.nodeName(0, j));

  function pictures() {
    tiles = Array.from({ length: Math.min(TILES, box.live.sizes[1]) }, (_, j) =>
      html("button", { type: "button", title: nameOf(j), "aria-label": nameOf(j), onclick: () => choose(j) }, html("canvas", { width: size, height: size })),
    );
    at("tiles").replaceChildren(...tiles);
    choose(node, false);
  }

  function choose(j, ask = true) {
    node = j;
    tiles.forEach((tile, k) => tile.setAttribute("aria-pressed", String(k === j)));
    at("node").textContent = nameOf(j);
    if (ask) order("set", { node });
  }

  function drawWeights() {
    const n = told.weights.length / data.sizes[0];
    const { paint, diverging } = hillstart.picture;
    const of = (j) => diverging(Float32Array.from({ length: data.sizes[0] }, (_, i) => told.weights[i * n + j]), size);
    tiles.forEach((tile, j) => paint(tile.firstChild, of(j), size));
    paint(at("large"), of(node), size);
    at("large").setAttribute("aria-label", `${told.change ? "What has changed in the weights" : "Weights"} of ${nameOf(node)}`);
  }

  // ---------------------------------------------------------------- begin

  // As the network sees them.
  const [train, val] = data.pictures.map(({ x, y }) => {
    const all = hillstart.bytes(x);
    const area = data.sizes[0];
    return y.map((label, k) => ({
      x: hillstart.picture.normalised(all.subarray(k * area, (k + 1) * area), box.preprocessing),
      y: box.classes.map((_, j) => (j === label ? 1 : 0)),
      label,
    }));
  });

  box.live = {};
  try {
    const source = `const hillstart = {}; (${hillstart.mathematics})(hillstart); (${work})(hillstart, self, ${POINTS});`;
    worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  } catch {
    complain("This browser lets no page compute beside itself, so nothing can learn here; another browser may.");
    return;
  }
  worker.onerror = () => complain("The training has stopped because of an error in this browser; load the page again.");
  worker.onmessage = ({ data: message }) => (message.kind === "given" ? opened(message) : heard(message));
  order("load", { train, val });
  begin();
  const sizes = new ResizeObserver(() => matchMedia("print").matches || draw());
  sizes.observe(at("costs"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
});
