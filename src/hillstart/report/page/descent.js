// network.py's starting points and steps, for one start, in float64. A picture is { x, y, label }: inputs, wanted outputs.
const { COSTS, forward, cost, errors } = hillstart.maths;

// torch's generator on the CPU, the Mersenne Twister (Matsumoto and Nishimura 1998): a seed gives the same numbers here.
function generator(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let k = 1; k < 624; k++) state[k] = Math.imul(1812433253, state[k - 1] ^ (state[k - 1] >>> 30)) + k;
  let place = 624;

  // A whole number of 32 bits.
  function whole() {
    if (place === 624) {
      for (let k = 0; k < 624; k++) {
        const y = (state[k] & 0x80000000) | (state[(k + 1) % 624] & 0x7fffffff);
        state[k] = state[(k + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      place = 0;
    }
    let y = state[place++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  return {
    whole,
    // From 0 to below 1, with the digits of float32 and of float64.
    single: () => (whole() & 0xffffff) / 2 ** 24,
    double: () => ((whole() & 0x1fffff) * 2 ** 32 + whole()) / 2 ** 53,
    spare: [],
  };
}

// Two numbers of mean 0 and deviation 1: Box and Muller 1958.
function pair(u, turn) {
  const r = Math.sqrt(-2 * Math.log(u));
  return [r * Math.cos(2 * Math.PI * turn), r * Math.sin(2 * Math.PI * turn)];
}

// torch.randn: fewer than 16 numbers are made one by one, more of them 16 at a time, the last 16 anew if some are left over.
function normals(n, g) {
  const found = new Float64Array(n);
  if (n < 16) {
    return found.map(() => {
      if (g.spare.length === 0) {
        const turn = g.double();
        g.spare = pair(1 - g.double(), turn);
      }
      return g.spare.shift();
    });
  }
  const paired = (from) => {
    for (let k = from; k < from + 8; k++) [found[k], found[k + 8]] = pair(1 - found[k], found[k + 8]);
  };
  for (let k = 0; k < n; k++) found[k] = g.single();
  for (let from = 0; from + 16 <= n; from += 16) paired(from);
  if (n % 16) {
    for (let k = n - 16; k < n; k++) found[k] = g.single();
    paired(n - 16);
  }
  return found;
}

const INITIALIZERS = {
  unit_normal: (n, m, g) => [normals(n * m, g), normals(m, g)],
  scaled_normal: (n, m, g) => [normals(n * m, g).map((w) => w / Math.sqrt(n)), normals(m, g)],
  glorot: (n, m, g) => [new Float64Array(n * m).map(() => (2 * g.single() - 1) * Math.sqrt(6 / (n + m))), new Float64Array(m)],
};

// `like`: { sizes, activation, cost, start }.
function begun(like, seed) {
  const g = generator(seed);
  const layers = like.sizes.slice(1).map((m, l) => INITIALIZERS[like.start](like.sizes[l], m, g));
  return { ...like, w: layers.map(([w]) => w), b: layers.map(([, b]) => b) };
}

// The next order of n pictures: each place changes with one before it (Fisher and Yates).
function shuffled(n, g) {
  const order = Array.from({ length: n }, (_, k) => k);
  for (let k = n - 1; k > 0; k--) {
    const other = g.whole() % (k + 1);
    [order[k], order[other]] = [order[other], order[k]];
  }
  return order;
}

// Network.descend: all errors are found before the first weight moves; w <- w - eta/B a^T delta, b <- b - eta/B delta.
function descend(net, batch, eta) {
  const passes = batch.map(({ x, y }) => {
    const run = forward(net, x);
    return { a: run.a, steps: errors(net, run, y).map((delta) => delta.map((d) => (-eta / batch.length) * d)) };
  });
  net.w.forEach((w, l) => {
    const [a, steps] = [passes.map((pass) => pass.a[l]), passes.map((pass) => pass.steps[l])];
    addProduct(w, a, steps);
    steps.forEach((step) => step.forEach((d, j) => (net.b[l][j] += d)));
  });
}

// w + a^T step, four pictures at a time: w is read and written a quarter as often.
function addProduct(w, a, steps) {
  const n = steps[0].length;
  const none = new Float64Array(Math.max(n, a[0].length));
  for (let p = 0; p < a.length; p += 4) {
    const [a0, a1, a2, a3] = [0, 1, 2, 3].map((q) => a[p + q] ?? none);
    const [s0, s1, s2, s3] = [0, 1, 2, 3].map((q) => steps[p + q] ?? none);
    for (let i = 0; i < a0.length; i++) {
      const b0 = a0[i], b1 = a1[i], b2 = a2[i], b3 = a3[i];
      for (let j = 0, k = i * n; j < n; j++, k++) w[k] += b0 * s0[j] + b1 * s1[j] + b2 * s2[j] + b3 * s3[j];
    }
  }
}

// The mean cost, and the share of right answers. `line`: { i, j, values } asks for the mean cost at each of these values
// of the weight from node i to node j of the last layer, while all others stay; only z_j changes with it.
function measured(net, pictures, line) {
  let [whole, right] = [0, 0];
  const along = line ? new Float64Array(line.values.length) : null;
  for (const { x, y, label } of pictures) {
    const run = forward(net, x);
    whole += cost(net, run, y);
    const outputs = run.a.at(-1);
    right += outputs.indexOf(Math.max(...outputs)) === label;
    if (!line) continue;
    const [z, ai] = [Float64Array.from(run.z.at(-1)), run.a.at(-2)[line.i]];
    const [before, w] = [z[line.j], net.w.at(-1)[line.i * z.length + line.j]];
    line.values.forEach((value, k) => {
      z[line.j] = before + (value - w) * ai;
      along[k] += COSTS[net.cost].value(z, y) / pictures.length;
    });
  }
  return { cost: whole / pictures.length, right: right / pictures.length, along };
}

hillstart.descent = { generator, begun, shuffled, descend, measured };
