// The arithmetic of one node as text; hillstart/arithmetic.py says how it is rounded, and does the same.
const SHOWN = 5;
const ALL_SHOWN = 6;
const LARGEST_EXPONENT = 10000;

const thousandths = (x) => Math.floor(x * 1000 + 0.5);

function text(n) {
  const size = Math.abs(n);
  const digits = `${Math.floor(size / 1000)}.${String(size % 1000).padStart(3, "0")}`.replace(/\.?0+$/, "");
  return n < 0 ? `−${digits}` : digits;
}

function activated(activation, z) {
  if (activation === "sigmoid") {
    const e = Math.exp(-Math.abs(z) / 1000);
    return thousandths(z >= 0 ? 1 / (1 + e) : e / (1 + e));
  }
  return activation === "tanh" ? thousandths(Math.tanh(z / 1000)) : Math.max(z, 0);
}

const total = (numbers) => numbers.reduce((sum, n) => sum + n, 0);

function softmax(z) {
  const largest = Math.max(...z);
  const away = largest >= 0 && largest <= LARGEST_EXPONENT ? 0 : largest;
  const powers = z.map((zk) => thousandths(Math.exp((zk - away) / 1000)));
  const sum = total(powers);
  return { away, powers, shares: powers.map((power) => thousandths(power / sum)) };
}

// As the list of products shows it.
const product = (a, w) => Math.floor((a * w) / 1000 + 0.5);

// The places of the products, the largest first.
function order(inputs, weights) {
  const size = inputs.map((a, i) => Math.abs(a * weights[i]));
  return inputs.map((_, i) => i).sort((i, k) => size[k] - size[i] || i - k);
}

const factor = (n, first) => (n < 0 && !first ? `(${text(n)})` : text(n));
const added = (n) => (n < 0 ? ` − ${text(-n)}` : ` + ${text(n)}`);

function sumLines(inputs, weights, bias, z) {
  const every = inputs.length <= ALL_SHOWN;
  const places = every ? inputs.map((_, i) => i) : order(inputs, weights).slice(0, SHOWN);
  const terms = places.map((i, k) => `${factor(inputs[i], k === 0)} × ${factor(weights[i])}`);
  const millionths = 1000 * (z - bias) - total(places.map((i) => inputs[i] * weights[i]));
  const rest = Math.floor(millionths / 1000 + 0.5);
  if (!every) terms.push(`${inputs.length - places.length} smaller ones, together ${text(rest)}`);
  else if (rest) terms.push(`${factor(rest)} of rounding`);
  return [`${terms.join(" + ")} = ${text(z - bias)}`, `${text(z - bias)}${added(bias)} = ${text(z)}`];
}

function activationLine(activation, z) {
  const name = activation === "sigmoid" ? "σ(" : activation === "tanh" ? "tanh(" : "max(0, ";
  return `${name}${text(z)}) = ${text(activated(activation, z))}`;
}

function softmaxLines(z, k) {
  const { away, powers, shares } = softmax(z);
  const lines = [];
  if (away) {
    const left = `${text(z[k])}${added(-away)} = ${text(z[k] - away)}`;
    lines.push(`${left}, as the largest z, ${text(away)}, is taken away from each: the shares stay the same`);
  }
  lines.push(`e^${text(z[k] - away)} = ${text(powers[k])}`);
  let listed = `(${powers.map(text).join(" + ")})`;
  if (z.length > SHOWN) {
    listed = text(total(powers));
    lines.push(`${listed} is the sum of e^z over all ${z.length} classes`);
  }
  return [...lines, `${text(powers[k])} / ${listed} = ${text(shares[k])}`];
}

// "e^2.28" looks like a power, and is read aloud and copied as it is written.
function written(line) {
  const parts = line.split(/(\S+ × \S+|\^−?[\d.]+)/);
  return parts.map((part) => {
    if (part.startsWith("^")) return [hillstart.html("span", { class: "unseen" }, "^"), hillstart.html("sup", {}, part.slice(1))];
    return part.includes("×") ? hillstart.html("span", { class: "term" }, part) : part;
  });
}

// The items of a list of such lines, each with what it says in words, if anything.
function listed(lines, notes) {
  const { html } = hillstart;
  return lines.map((line, k) => html("li", {}, html("span", { class: "line" }, ...written(line)), notes[k] && html("span", { class: "soft" }, notes[k])));
}

hillstart.arithmetic = { thousandths, text, activated, softmax, product, order, sumLines, activationLine, softmaxLines, listed };
