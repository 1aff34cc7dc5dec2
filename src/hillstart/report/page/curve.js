// An activation as a curve over z, with the ball at { z, a }. `range` gives the lowest and the highest value that are drawn
// and the axis, for as far as the curve reaches to both sides of `centre`.
hillstart.curve = ({ value, z, a, centre = 0, range = () => [0, 1, 0] }) => {
  const { svg } = hillstart;
  const reach = Math.max(6, Math.ceil(Math.abs(z - centre) * 1.15));
  const [low, high, axis] = range(reach);
  const [W, H, left, foot] = [340, 190, 34, 26];
  const px = (v) => left + ((v - centre + reach) / (2 * reach)) * (W - left - 12);
  const py = (v) => 12 + ((high - v) / (high - low)) * (H - 12 - foot);
  const points = Array.from({ length: 121 }, (_, k) => centre - reach + (k * reach) / 60).map((v) => `${px(v).toFixed(1)},${py(value(v)).toFixed(1)}`);
  const tick = (v) => hillstart.number(v, 3);
  const label = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor }, words);
  return svg(
    "svg",
    { viewBox: `0 0 ${W} ${H}`, class: "activation", role: "img", "aria-label": `The activation as a curve; at z = ${tick(z)} it is ${tick(a)}` },
    ...[axis, high].map((v) => svg("line", { x1: left, x2: W - 12, y1: py(v), y2: py(v), class: "grid" })),
    ...[axis, high].map((v) => label(left - 6, py(v) + 4, "end", tick(v))),
    ...[-reach, 0, reach].map((v) => label(px(centre + v), H - 8, v < 0 ? "start" : v ? "end" : "middle", tick(centre + v))),
    svg("polyline", { points: points.join(" "), class: "curve" }),
    svg("path", { d: `M${px(z)},${py(axis)}V${py(a)}H${left}`, class: "drop" }),
    svg("circle", { cx: px(z), cy: py(a), r: 6, class: "ball" }),
  );
};
