// network.py for one start and one picture, in float64 on its float32 weights: forward pass, cost, backpropagation.
// A network: { sizes, w: [n_in x n_out, row by row], b, activation, cost }.
const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const sum = (values) => values.reduce((all, value) => all + value, 0);

function logsumexp(z) {
  const largest = Math.max(...z);
  return largest + Math.log(sum(z.map((zk) => Math.exp(zk - largest))));
}

function softmax(z) {
  const whole = logsumexp(z);
  return z.map((zk) => Math.exp(zk - whole));
}

const ACTIVATIONS = {
  sigmoid: { value: sigmoid, derivative: (a) => a * (1 - a) },
  tanh: { value: Math.tanh, derivative: (a) => 1 - a * a },
  relu: { value: (z) => Math.max(z, 0), derivative: (a) => (a > 0 ? 1 : 0) },
};

const COSTS = {
  quadratic: {
    output: (z) => z.map(sigmoid),
    value: (z, y) => 0.5 * sum(z.map((zk, k) => (sigmoid(zk) - y[k]) ** 2)),
    delta: (a, y) => a.map((ak, k) => (ak - y[k]) * ak * (1 - ak)),
  },
  cross_entropy: {
    output: (z) => z.map(sigmoid),
    value: (z, y) => sum(z.map((zk, k) => softplus(zk) - y[k] * zk)),
    delta: (a, y) => a.map((ak, k) => ak - y[k]),
  },
  log_likelihood: {
    output: softmax,
    value: (z, y) => logsumexp(z) - sum(z.map((zk, k) => y[k] * zk)),
    delta: (a, y) => a.map((ak, k) => ak - y[k]),
  },
};

function weightedInput(net, l, a) {
  const z = Float64Array.from(net.b[l]);
  const [w, n] = [net.w[l], z.length];
  // Four inputs at a time: z is read and written a quarter as often, and a picture takes half the time.
  const whole = a.length - (a.length % 4);
  for (let i = 0; i < whole; i += 4) {
    const a0 = a[i], a1 = a[i + 1], a2 = a[i + 2], a3 = a[i + 3];
    for (let j = 0, k = i * n; j < n; j++, k++) z[j] += a0 * w[k] + a1 * w[k + n] + a2 * w[k + 2 * n] + a3 * w[k + 3 * n];
  }
  for (let i = whole; i < a.length; i++) {
    for (let j = 0, k = i * n; j < n; j++, k++) z[j] += a[i] * w[k];
  }
  return z;
}

// z and a of every layer above l, by their rule; a[0] is the picture, z[l] belongs to a[l + 1].
function onwards(net, l, zl, weighted) {
  const [z, a] = [[], []];
  for (; l < net.w.length; l++) {
    z.push(z.length === 0 ? zl : weighted(l, a.at(-1)));
    a.push(l === net.w.length - 1 ? COSTS[net.cost].output(z.at(-1)) : z.at(-1).map(ACTIVATIONS[net.activation].value));
  }
  return { z, a };
}

function forward(net, x) {
  const { z, a } = onwards(net, 0, weightedInput(net, 0, x), (l, al) => weightedInput(net, l, al));
  return { z, a: [x, ...a] };
}

const cost = (net, run, y) => COSTS[net.cost].value(run.z.at(-1), y);

// delta of every layer, the first hidden one at index 0: BP1 and BP2.
function errors(net, run, y) {
  const delta = [];
  delta[net.w.length - 1] = Float64Array.from(COSTS[net.cost].delta(run.a.at(-1), y));
  for (let l = net.w.length - 1; l > 0; l--) {
    const [w, above, a] = [net.w[l], delta[l], run.a[l]];
    delta[l - 1] = new Float64Array(a.length);
    for (let i = 0; i < a.length; i++) {
      let back = 0;
      for (let j = 0; j < above.length; j++) back += w[i * above.length + j] * above[j];
      delta[l - 1][i] = ACTIVATIONS[net.activation].derivative(a[i]) * back;
    }
  }
  return delta;
}

// BP4: the gradient of one weight.
const gradient = (run, delta, { l, i, j }) => run.a[l][i] * delta[l][j];

// The cost where one weight alone has another value.
function costWith(net, run, y, { l, i, j }, value) {
  const zl = Float64Array.from(run.z[l]);
  const [w, n] = [net.w[l], zl.length];
  zl[j] = net.b[l][j];
  for (let k = 0; k < run.a[l].length; k++) zl[j] += run.a[l][k] * (k === i ? value : w[k * n + j]);
  return cost(net, onwards(net, l, zl, (m, a) => weightedInput(net, m, a)), y);
}

// The cost after a step of all weights and biases, w - eta a delta: no weight needs to be changed to find it.
function costAfter(net, run, delta, y, eta) {
  function weighted(l, a) {
    const along = a.reduce((all, ai, i) => all + ai * run.a[l][i], 1);
    return weightedInput(net, l, a).map((zj, j) => zj - eta * delta[l][j] * along);
  }
  return cost(net, onwards(net, 0, weighted(0, run.a[0]), weighted), y);
}

// Outputs as probabilities, calibrated by a temperature, as in voting.py.
function probabilities(outputs, temperature) {
  const smallest = 2 ** -126;
  return softmax(Array.from(outputs, (a) => Math.log(Math.max(a, smallest)) / temperature));
}

hillstart.maths = { ACTIVATIONS, COSTS, forward, cost, errors, gradient, costWith, costAfter, probabilities };
