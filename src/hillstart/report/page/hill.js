const { svg, html, number, tenth, ticks, decades, floats } = hillstart;

// From deep to high, ever lighter, so that the order can be seen without telling hues apart.
const RAMP = [[13, 42, 62], [17, 82, 104], [36, 124, 124], [98, 165, 132], [172, 202, 148], [229, 228, 184], [250, 246, 228]];
const LEVELS = 12;
const SECONDS_PER_FRAME = 0.2;

hillstart.section("hill", (root, data) => {
  const last = data.epochs.length - 1;
  const find = (id) => root.querySelector(`#hill-${id}`);
  const select = find("weight"), play = find("play"), slider = find("epoch"), now = find("now");
  let frame = last, weight = 0, view = 0, playing = false, seen = false, asked = 0;

  const between = (values, t) => {
    const k = Math.min(Math.floor(t), values.length - 1), next = Math.min(k + 1, values.length - 1);
    return values[k] + (values[next] - values[k]) * (t - k);
  };

  // ------------------------------------------------------------ along one weight

  const line = find("curve");
  let moveLine = () => {};

  function drawLine() {
    const of = data.weights[weight], costs = of.read ??= floats(of.costs);
    const n = costs.length / (last + 1);
    const W = line.clientWidth, H = Math.round(Math.min(470, Math.max(260, W * 0.85)));
    const left = 46, right = 8, top = 10, bottom = 44;
    const x = (w) => left + ((w - of.low) / (of.high - of.low)) * (W - left - right);
    const [low, high] = data.bounds.map(Math.log);
    const y = (c) => H - bottom - ((Math.log(Math.max(c, 1e-12)) - low) / (high - low || 1)) * (H - top - bottom);
    const points = (t) => Array.from({ length: n }, (_, k) => {
      const a = Math.floor(t), b = Math.min(a + 1, last);
      const c = costs[a * n + k] + (costs[b * n + k] - costs[a * n + k]) * (t - a);
      return `${x(of.low + (k / (n - 1)) * (of.high - of.low)).toFixed(1)},${y(c).toFixed(1)}`;
    });
    const clip = svg("clipPath", { id: "hill-inside" }, svg("rect", { x: left, y: top, width: W - left - right, height: H - top - bottom }));
    const ground = svg("polygon", { class: "hill-ground" }), curve = svg("polyline", { class: "hill-curve" });
    const trail = svg("polyline", { class: "hill-trail" }), dots = svg("g"), ball = svg("circle", { class: "hill-ball", r: 8 });
    const end = last > 0 && svg("polyline", { class: "hill-end", points: points(data.best[0]).join(" ") });
    const axis = [];
    for (const c of decades(...data.bounds)) {
      axis.push(svg("line", { class: "hill-axis", x1: left, x2: W - right, y1: y(c), y2: y(c) }));
      axis.push(svg("text", { x: left - 7, y: y(c) + 4, "text-anchor": "end" }, number(c)));
    }
    for (const w of ticks(of.low, of.high, W < 400 ? 5 : 7)) axis.push(svg("text", { x: x(w), y: H - bottom + 17, "text-anchor": "middle" }, number(w)));
    axis.push(svg("text", { x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, "its value"));
    axis.push(svg("text", { transform: `translate(11 ${(H - bottom + top) / 2}) rotate(-90)`, "text-anchor": "middle" }, "cost"));
    line.replaceChildren(svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": `The cost along one weight: ${of.name}` },
      clip, svg("g", { "clip-path": "url(#hill-inside)" }, ground), axis, svg("g", { "clip-path": "url(#hill-inside)" }, end, curve), trail, dots, ball));
    moveLine = () => {
      const p = points(frame);
      curve.setAttribute("points", p.join(" "));
      ground.setAttribute("points", `${left},${H - bottom} ${p.join(" ")} ${W - right},${H - bottom}`);
      const at = (k) => [x(between(of.w, k)), y(between(data.costs[0], k))];
      const passed = Array.from({ length: Math.floor(frame) + 1 }, (_, k) => at(k));
      trail.setAttribute("points", [...passed, at(frame)].join(" "));
      dots.replaceChildren(...passed.map(([cx, cy]) => svg("circle", { class: "hill-dot", cx, cy, r: 2.2 })));
      place(ball, at(frame));
    };
    moveLine();
  }

  // ------------------------------------------------------------ from above

  const plane = find("plane"), table = find("balls");
  let moveMap = () => {};

  function drawMap() {
    const of = data.views[view], n = of.n, W = plane.clientWidth;
    const left = 24, bottom = 72, size = W - left, H = size + bottom;
    const scale = scaleOf(of);
    const canvas = html("canvas", { style: `left:${(100 * left) / W}%;top:0;width:${(100 * size) / W}%`, "aria-hidden": "true" });
    paint(canvas, of, size, scale);
    const x = (v) => left + ((v - of.low[0]) / of.side) * size;
    const y = (v) => size - ((v - of.low[1]) / of.side) * size;
    const balls = of.balls.map((ball, s) => ({
      ...ball,
      at: (t) => [x(between(ball.x, t)), y(between(ball.y, t))],
      casing: svg("polyline", { class: "hill-casing" }),
      way: svg("polyline", { class: "hill-way" }),
      steps: svg("g"),
      mark: svg("circle", { class: s ? "hill-ball" : "hill-ball hill-chosen", r: s ? 7 : 8.5 }),
      name: svg("text", { class: "hill-name" }, data.names[s]),
    }));
    const kept = of.balls.map((ball) => svg("circle", { class: "hill-kept", cx: x(ball.end[0]), cy: y(ball.end[1]), r: 12 }));
    const bar = tenth(of.side / 4);
    const ends = [svg("text", { x: left + size / 2, y: size + 17, "text-anchor": "middle" }, `${of.axes[0]} →`),
      svg("text", { transform: `translate(14 ${size / 2}) rotate(-90)`, "text-anchor": "middle" }, `${of.axes[1]} →`)];
    plane.replaceChildren(canvas, svg("svg", { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": `The cost in a plane: ${of.name}` },
      ends, legend(left, size + 34, size, scale, bar, of.side),
      last > 0 && balls.map((b) => [b.casing, b.way, b.steps]), kept, balls.map((b) => b.mark), balls.map((b) => b.name)));
    table.tBodies[0].replaceChildren(...balls.map((b, s) => html("tr", {}, html("th", { scope: "row" }, data.names[s]),
      b.cost = html("td", { class: "number" }), b.off = html("td", { class: "number" }))));
    find("words").textContent = of.words;
    moveMap = () => balls.forEach((b, s) => {
      const passed = Array.from({ length: Math.floor(frame) + 1 }, (_, k) => b.at(k));
      const points = [...passed, b.at(frame)].join(" ");
      b.casing.setAttribute("points", points);
      b.way.setAttribute("points", points);
      b.steps.replaceChildren(...passed.map(([cx, cy]) => svg("circle", { class: "hill-step", cx, cy, r: 2.1 })));
      const [cx, cy] = last > 0 ? b.at(frame) : [x(b.end[0]), y(b.end[1])];
      place(b.mark, [cx, cy]);
      const right = cx > left + size * 0.75;
      b.name.setAttribute("x", cx + (right ? -14 : 14));
      b.name.setAttribute("text-anchor", right ? "end" : "start");
      b.name.setAttribute("y", cy < 24 ? cy + 16 : cy - 9);
      b.cost.textContent = number(data.costs[s][Math.round(frame)], 3);
      b.off.textContent = number(b.beside[Math.round(frame)], 2);
    });
    moveMap();
  }

  // ------------------------------------------------------------ time

  function show(t) {
    frame = Math.min(Math.max(t, 0), last);
    moveLine();
    moveMap();
    if (!slider) return;
    const k = Math.round(frame), words = `epoch ${data.epochs[k]} of ${data.epochs[last]}`;
    slider.value = k;
    slider.setAttribute("aria-valuetext", `${words}, cost ${number(data.costs[0][k], 3)}`);
    now.textContent = words;
  }

  function setPlaying(value) {
    playing = value;
    play.textContent = playing ? "Pause" : "Play";
    roll();
  }

  function roll() {
    if (asked || !playing || !seen) return;
    let before = null;
    const step = (time) => {
      asked = 0;
      if (!playing || !seen) return;
      const t = frame + (before === null ? 0 : (time - before) / 1000 / SECONDS_PER_FRAME);
      before = time;
      show(t);
      if (t >= last) setPlaying(false);
      else asked = requestAnimationFrame(step);
    };
    asked = requestAnimationFrame(step);
  }

  select.addEventListener("change", () => {
    weight = Number(select.value);
    drawLine();
  });
  root.querySelectorAll("[data-view]").forEach((button, _, all) => button.addEventListener("click", () => {
    view = Number(button.dataset.view);
    all.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
    drawMap();
  }));
  const drawings = [[line, drawLine], ...(plane ? [[plane, drawMap]] : [])];
  const widths = new Map();
  const sizes = new ResizeObserver(() => {
    if (matchMedia("print").matches) return; // what is drawn now would come too late for the paper
    for (const [box, draw] of drawings) {
      if (!box.clientWidth || widths.get(box) === box.clientWidth) continue;
      widths.set(box, box.clientWidth);
      draw();
    }
  });
  drawings.forEach(([box, draw]) => {
    widths.set(box, box.clientWidth);
    draw();
    sizes.observe(box);
  });
  if (!slider) return;
  slider.max = last;
  slider.addEventListener("input", () => {
    setPlaying(false);
    show(Number(slider.value));
  });
  play.addEventListener("click", () => {
    if (!playing && frame >= last) show(0);
    setPlaying(!playing);
  });
  window.addEventListener("beforeprint", () => {
    setPlaying(false);
    show(last);
  });
  show(last);
  let greeted = matchMedia("(prefers-reduced-motion: reduce)").matches;
  new IntersectionObserver(([entry]) => {
    seen = entry.isIntersecting;
    if (seen && !greeted) {
      greeted = true;
      show(0);
      setPlaying(true);
    }
    roll();
  }, { threshold: 0.2 }).observe(root.querySelector(".hill-cuts"));
});

// ---------------------------------------------------------------- drawing

function place(circle, [cx, cy]) {
  circle.setAttribute("cx", cx);
  circle.setAttribute("cy", cy);
}

// Colours follow the logarithm of the cost, from the lowest to the highest cost of a map.
function scaleOf(view) {
  view.read ??= floats(view.grid);
  const low = Math.log(view.bounds[0]), high = Math.log(view.bounds[1]);
  const clipped = view.read.some((c) => c > view.bounds[1] * 1.001);
  return { low, high, clipped, of: (log) => Math.min(2, (log - low) / (high - low || 1)) };
}

function colour(share, light, out, k) {
  const at = Math.min(1, Math.max(0, share)) * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2), rest = at - i;
  for (let c = 0; c < 3; c++) out[k + c] = Math.min(255, (RAMP[i][c] + (RAMP[i + 1][c] - RAMP[i][c]) * rest) * light);
  out[k + 3] = 255;
}

// Catmull-Rom: smooth, and through every measured point.
function smooth(rows, n, m) {
  const out = rows.map(() => new Float32Array(m));
  for (let p = 0; p < m; p++) {
    const at = (p / (m - 1)) * (n - 1), k = Math.min(Math.floor(at), n - 2), t = at - k;
    const a = 0.5 * (-t + 2 * t * t - t ** 3), b = 0.5 * (2 - 5 * t * t + 3 * t ** 3), c = 0.5 * (t + 4 * t * t - 3 * t ** 3), d = 0.5 * (-t * t + t ** 3);
    rows.forEach((row, r) => {
      const first = k > 0 ? row[k - 1] : 2 * row[0] - row[1], after = k + 2 < n ? row[k + 2] : 2 * row[n - 1] - row[n - 2];
      out[r][p] = a * first + b * row[k] + c * row[k + 1] + d * after;
    });
  }
  return out;
}

function transposed(rows) {
  return Array.from(rows[0], (_, k) => Float32Array.from(rows, (row) => row[k]));
}

function paint(canvas, view, size, scale) {
  const n = view.n, dense = Math.max(1, Math.min(3, window.devicePixelRatio || 1)), m = Math.round(Math.min(1100, size * dense));
  const logs = Array.from({ length: n }, (_, r) => Float32Array.from(view.read.subarray((n - 1 - r) * n, (n - r) * n), (c) => scale.of(Math.log(Math.max(c, 1e-12)))));
  const z = transposed(smooth(transposed(smooth(logs, n, m)), n, m));
  canvas.width = canvas.height = m;
  const context = canvas.getContext("2d"), image = context.createImageData(m, m);
  // Lit from the upper left, as on a map.
  for (let r = 0, k = 0; r < m; r++) {
    for (let c = 0; c < m; c++, k += 4) {
      const dx = z[r][Math.min(c + 1, m - 1)] - z[r][Math.max(c - 1, 0)], dy = z[Math.min(r + 1, m - 1)][c] - z[Math.max(r - 1, 0)][c];
      colour(z[r][c], 1 + Math.max(-0.16, Math.min(0.16, (dx + dy) * m * 0.025)), image.data, k);
    }
  }
  context.putImageData(image, 0, 0);
  context.strokeStyle = "rgb(10 34 48 / 0.4)";
  context.lineWidth = 0.9 * (m / size);
  context.beginPath();
  const step = Math.max(1, Math.round(m / 200));
  for (let level = 1; level < LEVELS; level++) contour(context, z, m, step, level / LEVELS);
  context.stroke();
}

// Marching squares: in each small square the line through the places where the height passes the level.
function contour(context, z, m, step, level) {
  for (let r = 0; r + step < m; r += step) {
    for (let c = 0; c + step < m; c += step) {
      const corners = [[c, r], [c + step, r], [c + step, r + step], [c, r + step]].map(([x, y]) => [x, y, z[y][x] - level]);
      const found = [];
      for (let k = 0; k < 4; k++) {
        const [x0, y0, a] = corners[k], [x1, y1, b] = corners[(k + 1) % 4];
        if (a < 0 !== b < 0) found.push([x0 + ((x1 - x0) * a) / (a - b), y0 + ((y1 - y0) * a) / (a - b)]);
      }
      for (let k = 0; k + 1 < found.length; k += 2) {
        context.moveTo(...found[k]);
        context.lineTo(...found[k + 1]);
      }
    }
  }
}

function legend(left, top, size, scale, bar, side) {
  const width = Math.min(size * 0.62, 300), parts = [];
  for (let k = 0; k < LEVELS; k++) {
    const rgb = [0, 0, 0, 0];
    colour((k + 0.5) / LEVELS, 1, rgb, 0);
    parts.push(svg("rect", { x: left + (k * width) / LEVELS, y: top, width: width / LEVELS + 0.5, height: 10, fill: `rgb(${rgb.slice(0, 3).map(Math.round)})` }));
  }
  for (const share of [0, 0.5, 1]) {
    const anchor = share === 0 ? "start" : share === 1 ? "end" : "middle";
    parts.push(svg("text", { x: left + share * width, y: top + 25, "text-anchor": anchor }, (share ? "" : "cost ") + number(Math.exp(scale.low + share * (scale.high - scale.low)), 2) + (share === 1 && scale.clipped ? " or more" : "")));
  }
  const length = (bar / side) * size, right = left + size;
  parts.push(svg("path", { class: "hill-axis", fill: "none", d: `M${right - length} ${top}v8h${length}v-8`, style: "stroke: var(--soft)" }));
  parts.push(svg("text", { x: right, y: top + 25, "text-anchor": "end" }, `distance ${number(bar)}`));
  return svg("g", {}, parts);
}
