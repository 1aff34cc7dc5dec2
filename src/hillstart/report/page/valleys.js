// The cost on the straight way from the chosen start to another one, and the list of those others.
const { html, svg, number, section } = hillstart;

section("valleys", (root, data) => {
  if (!data) return;
  const curves = hillstart.floats(data.curves);
  const inner = data.points - 2;
  const list = root.querySelector("#valley-list");
  const [figure, place, here, said] = ["chart", "place", "here", "said"].map((name) => root.querySelector(`#valley-${name}`));
  const cost = (value) => (value === null ? Infinity : value);
  const starts = data.starts.map(([name, end, before, after, verdict], k) => {
    const way = (which) => [cost(data.own), ...curves.subarray((2 * k + which) * inner, (2 * k + which + 1) * inner), cost(end)];
    return { name, verdict, before: cost(before), after: cost(after), ways: [way(0), way(1)] };
  });
  let shown = 0;

  function chart({ name, ways, before, after, verdict }, width) {
    const height = Math.round(Math.min(400, Math.max(270, 0.62 * width)));
    const [left, right, top, bottom] = [46, 22, 22, 34];
    const finite = [...ways.flat(), 1.15 * data.guess].filter(Number.isFinite);
    // A hill without measure would flatten all else: it is cut off.
    const most = Math.min(1.06 * Math.max(...finite), 8 * data.guess);
    const x = (t) => left + t * (width - left - right);
    const y = (c) => top + (1 - Math.min(Number.isFinite(c) ? c : Infinity, 1.5 * most) / most) * (height - top - bottom);
    const at = (k) => x(k / (data.points - 1));
    const ends = [ways[0][0], ways[0].at(-1)];
    const straight = (t) => ends[0] + t * (ends[1] - ends[0]);

    const step = [1, 2, 5, 10].map((s) => s * 10 ** Math.floor(Math.log10(most / 5))).find((s) => most / s <= 6);
    const ticks = Array.from({ length: Math.floor(most / step) + 1 }, (_, k) => k * step);
    const line = (way) => way.map((c, k) => `${k ? "L" : "M"}${at(k).toFixed(1)} ${y(c).toFixed(1)}`).join("");
    const rises = (way) => way.map((c, k) => c - straight(k / (data.points - 1)));
    const peak = (way) => rises(way).reduce((best, rise, k, all) => (rise > all[best] ? k : best), 0);
    const bracket = (which, barrier) => {
      const k = peak(ways[which]);
      const [foot, head] = [y(straight(k / (data.points - 1))), y(ways[which][k])];
      if (!Number.isFinite(barrier) || foot - head < 14) return null;
      const leftwards = k > (data.points - 1) / 2 !== (which === 1);
      return svg("g", { class: `barrier w${which}` },
        svg("path", { d: `M${at(k)} ${foot}V${Math.max(top, head)}` }),
        foot - head < 40
          ? svg("text", { x: at(k), y: head - 9, "text-anchor": "middle" }, number(barrier, 3))
          : svg("text", { x: at(k) + (leftwards ? -6 : 6), y: Math.max(top + 12, (foot + head) / 2 + 4), "text-anchor": leftwards ? "end" : "start" }, number(barrier, 3)));
    };
    const band = ends.every(Number.isFinite)
      && `M${x(0)} ${y(ends[0])}L${x(1)} ${y(ends[1])}V${y(ends[1] + data.limit)}L${x(0)} ${y(ends[0] + data.limit)}Z`;
    const label = `Cost on the straight line from the chosen start, left, to ${name}, right. As it is, the barrier is ${number(before, 3)}; renumbered, ${number(after, 3)}: ${data.verdicts[verdict]}.`;

    return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label },
      svg("defs", {}, svg("clipPath", { id: "valley-clip" }, svg("rect", { x: 0, y: top - 12, width, height: height - top - bottom + 24 }))),
      ticks.map((c) => [
        svg("path", { class: "grid", d: `M${left} ${y(c)}H${width - right}` }),
        svg("text", { class: "tick", x: left - 8, y: y(c) + 4, "text-anchor": "end" }, number(Number(c.toPrecision(6)), 3)),
      ]),
      data.guess < most && [
        svg("path", { class: "guess", d: `M${left} ${y(data.guess)}H${width - right}` }),
        // On the side where no barrier is written.
        peak(ways[0]) < (data.points - 1) / 2
          ? svg("text", { class: "tick", x: width - right - 4, y: y(data.guess) - 5, "text-anchor": "end" }, "guessing")
          : svg("text", { class: "tick", x: left + 4, y: y(data.guess) - 5 }, "guessing"),
      ],
      band && svg("path", { class: "band", d: band }),
      svg("g", { "clip-path": "url(#valley-clip)" },
        ways.map((way, which) => [
          svg("path", { class: `curve w${which}`, d: line(way) }),
          way.slice(1, -1).map((c, k) => svg("circle", { class: `dot w${which}`, cx: at(k + 1), cy: y(c), r: 2.2 })),
        ]),
        bracket(0, before),
        after > data.limit && bracket(1, after),
        walker(at, y, ways, top, height - bottom)),
      svg("circle", { class: "to", cx: x(1), cy: Math.max(top, y(ends[1])), r: 7.5 }),
      svg("circle", { class: "from", cx: x(0), cy: Math.max(top, y(ends[0])), r: 8.5 }),
      svg("text", { class: "end", x: left - 8, y: height - bottom + 22 }, "the chosen start"),
      svg("text", { class: "end", x: width - right + 8, y: height - bottom + 22, "text-anchor": "end" }, "the other"),
      svg("text", { class: "tick", x: 0, y: 12 }, "cost"));
  }

  function key(which, text) {
    const sample = svg("svg", { viewBox: "0 0 30 10", width: 30, height: 10, "aria-hidden": "true" }, svg("path", { class: `curve w${which}`, d: "M1 5H29" }));
    return html("span", { class: "valley-key" }, sample, text);
  }

  // Where the slider stands: its costs on both curves.
  function walker(at, y, ways, top, bottom) {
    const k = Number(place.value);
    return [
      svg("path", { class: "guide", d: `M${at(k)} ${top}V${bottom}` }),
      ways.map((way, which) => svg("circle", { class: `walker w${which}`, cx: at(k), cy: y(way[k]), r: 5.5 })),
    ];
  }

  function draw() {
    const start = starts[shown];
    const k = Number(place.value);
    const share = Math.round((100 * k) / (data.points - 1));
    figure.replaceChildren(chart(start, Math.max(260, figure.clientWidth)));
    here.textContent = `${100 - share} % chosen, ${share} % the other: cost ${number(start.ways[0][k])}, renumbered ${number(start.ways[1][k])}.`;
    place.setAttribute("aria-valuetext", here.textContent);
  }

  function select(k) {
    rows[shown].classList.remove("shown");
    shown = k;
    rows[k].classList.add("shown");
    inputs[k].checked = true;
    const { name, before, after, verdict } = starts[k];
    const hill = (barrier) => (barrier <= data.limit ? `no hill (${number(barrier, 3)})` : `a hill of ${number(barrier, 3)}`);
    said.replaceChildren(
      html("strong", {}, html("bdi", {}, name)),
      `: as it is, ${hill(before)} on the way; renumbered, ${hill(after)}. `,
      html("span", { class: `verdict v${verdict}` }, data.verdicts[verdict]),
    );
    draw();
  }

  function choose(k) {
    if (k !== shown) select(k);
    inputs[k].focus({ preventScroll: true });
  }

  // Radio buttons of one name: a single stop of the Tab key, and the arrow keys go from one to the next, which is a click too.
  const rows = starts.map(({ name, before, after, verdict }, k) =>
    html("tr", { class: k < data.control ? "control" : null, click: () => choose(k) },
      html("td", {}, html("label", {}, html("input", { type: "radio", name: "valley", value: String(k) }), html("bdi", {}, name))),
      html("td", { class: "number" }, number(before, 3)),
      html("td", { class: "number" }, number(after, 3)),
      html("td", {}, html("span", { class: `verdict v${verdict}` }, data.verdicts[verdict].replace(" valley", "")))));
  const inputs = rows.map((row) => row.querySelector("input"));
  list.append(
    html("table", { class: "table" },
      html("caption", { class: "unseen" }, "Starts, and the barrier on the straight line from the chosen one to each."),
      html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "to"), html("th", { scope: "col", class: "number" }, "barrier"), html("th", { scope: "col", class: "number" }, "renumbered"), html("th", { scope: "col" }, "valley"))),
      html("tbody", {}, rows)));
  root.querySelector("#valley-key").append(
    key(0, "to the other as it is"),
    key(1, "to the other renumbered"),
    html("span", { class: "valley-key" }, html("span", { class: "valley-band" }), "no hill"),
  );
  select(data.control < starts.length ? data.control : 0);
  place.addEventListener("input", draw);
  let width = figure.clientWidth;
  new ResizeObserver(() => figure.clientWidth !== width && ((width = figure.clientWidth), draw())).observe(figure);
});
