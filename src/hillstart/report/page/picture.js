// images.py in the browser: a picture of any size becomes the pixels that the network sees, as Pillow would make them.
const bicubic = (x) => {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
};
const PRECISION = 2 ** 22; // Pillow's: weights of pixels are whole numbers of this part

// For each pixel of a line of `size`, the first pixel of the old line it is made of, and the weights from there on.
function taps(length, from, to, size) {
  const scale = (to - from) / size;
  const wide = Math.max(scale, 1);
  return Array.from({ length: size }, (_, k) => {
    const centre = from + (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5));
    const end = Math.min(length, Math.trunc(centre + 2 * wide + 0.5));
    const weights = Array.from({ length: end - first }, (_, x) => bicubic((x + first - centre + 0.5) / wide));
    const whole = weights.reduce((all, weight) => all + weight, 0);
    return { first, weights: weights.map((weight) => round((weight / whole) * PRECISION)) };
  });
}

const round = (x) => (x < 0 ? Math.trunc(x - 0.5) : Math.trunc(x + 0.5));
const clipped = (x) => Math.min(255, Math.max(0, Math.floor(x / PRECISION + 0.5)));

// One channel, row by row, cut to its centre square and brought to size x size.
function fitted(pixels, width, height, size) {
  const side = Math.min(width, height);
  const [left, top] = [(width - side) / 2, (height - side) / 2];
  const across = taps(width, left, left + side, size);
  const down = taps(height, top, top + side, size);
  // As Pillow does, a direction in which nothing changes is left as it is.
  const narrow = width !== size || side !== size;
  const narrowed = narrow ? new Uint8Array(size * height) : pixels;
  if (narrow) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < size; x++) {
        const { first, weights } = across[x];
        let found = 0;
        for (let k = 0; k < weights.length; k++) found += weights[k] * pixels[y * width + first + k];
        narrowed[y * size + x] = clipped(found);
      }
    }
  }
  if (height === size && side === size) return narrowed;
  const made = new Uint8Array(size * size);
  for (let y = 0; y < size; y++) {
    const { first, weights } = down[y];
    for (let x = 0; x < size; x++) {
      let found = 0;
      for (let k = 0; k < weights.length; k++) found += weights[k] * narrowed[(first + k) * size + x];
      made[y * size + x] = clipped(found);
    }
  }
  return made;
}

// RGBA, as a canvas gives it, to channel after channel: opaque, grey or colour, cut and resized.
function seen({ data, width, height }, { size, channels, background }) {
  const planes = Array.from({ length: channels }, () => new Uint8Array(width * height));
  const on = (value, alpha) => (alpha === 255 ? value : Math.round((value * alpha + background * (255 - alpha)) / 255));
  for (let p = 0; p < width * height; p++) {
    const [r, g, b] = [0, 1, 2].map((c) => on(data[4 * p + c], data[4 * p + 3]));
    if (channels === 1) planes[0][p] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else [r, g, b].forEach((value, c) => (planes[c][p] = value));
  }
  const found = new Uint8Array(channels * size * size);
  planes.forEach((plane, c) => found.set(fitted(plane, width, height, size), c * size * size));
  return found;
}

// What the network takes in: as `Preprocessing.normalise`, in steps of float32.
function normalised(pixels, { size, mean, std }) {
  const inputs = new Float64Array(pixels.length);
  for (let i = 0; i < pixels.length; i++) {
    const c = Math.floor(i / (size * size));
    inputs[i] = Math.fround(Math.fround(pixels[i] - Math.fround(mean[c] * 255)) / Math.fround(std[c] * 255));
  }
  return inputs;
}

// A file as RGBA; the browser turns it upright.
async function decoded(file) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

// Pixels from 0 to 255, channel after channel, on a canvas, which gets their size.
function paint(canvas, pixels, size) {
  if (canvas.width !== size || canvas.height !== size) Object.assign(canvas, { width: size, height: size });
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(size, size);
  const area = size * size;
  for (let p = 0; p < area; p++) {
    for (let c = 0; c < 3; c++) image.data[4 * p + c] = pixels[pixels.length === area ? p : c * area + p];
    image.data[4 * p + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

const canvas = (pixels, size) => paint(document.createElement("canvas"), pixels, size);

// Numbers for each pixel as colours: orange above zero, blue below, as strong as they are far from it. Those of the three
// colours of a pixel are added up.
function diverging(values, size) {
  const [area, style] = [size * size, getComputedStyle(document.body)];
  const [plus, minus, none] = ["--plus", "--minus", "--card"].map((name) => style.getPropertyValue(name).trim().match(/\w\w/g).map((pair) => parseInt(pair, 16)));
  const sums = new Float64Array(area);
  values.forEach((value, i) => (sums[i % area] += value));
  const most = sums.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) || 1;
  const pixels = new Uint8Array(3 * area);
  sums.forEach((value, p) => {
    const share = Math.sqrt(Math.abs(value) / most);
    for (let c = 0; c < 3; c++) pixels[c * area + p] = none[c] + share * ((value < 0 ? minus : plus)[c] - none[c]);
  });
  return pixels;
}

hillstart.picture = { seen, normalised, decoded, canvas, paint, diverging };
