// What the sections that open the network share: the picture that is shown, the node and the weight that are chosen.
// Whoever listens is told of any change, and draws anew.
let opened;

function open() {
  const data = hillstart.data("network");
  const { maths, arithmetic, picture } = hillstart;
  const net = { ...data.network, w: data.network.w.map(hillstart.floats), b: data.network.b.map(hillstart.floats) };
  const { size, channels } = data.preprocessing;
  const chosen = { ...net };
  const all = hillstart.bytes(data.pictures);
  const area = channels * size * size;
  const last = net.w.length - 1;
  const listeners = [];

  const box = {
    ...data,
    net,
    last,
    pixels: (k) => all.subarray(k * area, (k + 1) * area),
    layerName: (l) => (l === last ? "output" : `hidden${l + 1}`),
    nodeName: (l, j) => `${box.layerName(l)}.${l === last ? data.classes[j] : j + 1}`,
    // What feeds layer l: a pixel or a node of the layer before.
    sourceName(l, i) {
      if (l) return box.nodeName(l - 1, i);
      const { colour, row, column } = box.pixel(i);
      return `${colour}pixel in row ${row}, column ${column}`;
    },
    pixel(i) {
      const within = i % (size * size);
      const colour = channels === 3 ? `${["red", "green", "blue"][Math.floor(i / (size * size))]} ` : "";
      return { colour, row: Math.floor(within / size) + 1, column: (within % size) + 1 };
    },
    weight: ({ l, i, j }) => net.w[l][i * net.sizes[l + 1] + j],
    // Another network of as many layers in place of the chosen start, and `opened`, which one it is; null: the chosen one.
    put(network, opened) {
      Object.assign(net, network ?? chosen);
      box.opened = opened;
      box.temperature = opened ? 1 : data.temperature;
      box.shown_pictures = data.shown_pictures.map((shown, k) => {
        const outputs = maths.forward(net, picture.normalised(box.pixels(k), data.preprocessing)).a.at(-1);
        return { ...shown, answer: outputs.indexOf(Math.max(...outputs)) };
      });
      look(box.seen, box.shown);
      settle();
      tell();
    },
    percent(p) {
      if (p < 0.001) return "under 0.1 %";
      return p > 0.999 ? "over 99.9 %" : `${(100 * p).toFixed(1)} %`;
    },
    listen(listener) {
      listeners.push(listener);
      listener();
    },
    // `shown` is { name, label, place }: the class it belongs to, if that is known, and its place in the data.
    show(pixels, shown) {
      look(pixels, shown);
      tell();
    },
    want(k) {
      wish(k);
      tell();
    },
    chooseNode(l, j) {
      box.node = { l, j };
      tell();
    },
    chooseEdge(edge) {
      box.edge = edge;
      tell();
    },
  };

  function look(pixels, shown) {
    Object.assign(box, { shown, seen: pixels, run: maths.forward(net, picture.normalised(pixels, data.preprocessing)) });
    const outputs = Array.from(box.run.a.at(-1));
    box.probabilities = maths.probabilities(outputs, box.temperature);
    box.answer = outputs.indexOf(Math.max(...outputs));
    box.digits = digits();
    wish(shown.label ?? box.answer);
  }

  function wish(k) {
    box.wanted = k;
    box.y = data.classes.map((_, j) => (j === k ? 1 : 0));
    box.delta = maths.errors(net, box.run, box.y);
  }

  // To begin with: a first node that is active but not saturated, and the weight that matters most to the wanted output.
  function settle() {
    const { derivative } = maths.ACTIVATIONS[last ? net.activation : "sigmoid"];
    const first = Array.from(box.run.a[1], (a) => Math.abs(a) * derivative(a));
    box.node = { l: 0, j: first.indexOf(Math.max(...first)) };
    const moved = Array.from(box.run.a[last], (a) => Math.abs(a * box.delta[last][box.wanted]));
    box.edge = { l: last, i: moved.indexOf(Math.max(...moved)), j: box.wanted };
  }

  // In thousandths, as arithmetic shows them: z of each layer, and a of each from the picture on.
  function digits() {
    const z = box.run.z.map((zl) => Array.from(zl, arithmetic.thousandths));
    const a = z.map((zl, l) => {
      if (l < last) return zl.map((zj) => arithmetic.activated(net.activation, zj));
      if (net.cost === "log_likelihood") return arithmetic.softmax(zl).shares;
      return zl.map((zj) => arithmetic.activated("sigmoid", zj));
    });
    return { z, a: [Array.from(box.run.a[0], arithmetic.thousandths), ...a] };
  }

  function tell() {
    listeners.forEach((listener) => listener());
  }

  look(box.pixels(0), { ...data.shown_pictures[0], place: 0 });
  settle();
  return box;
}

hillstart.box = () => (opened ??= open());
