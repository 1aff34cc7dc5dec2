// What all sections share: elements, numbers, data, and the start of each, the nearest to the view first.
const hillstart = (() => {
  const starts = new Map();
  const parsed = new Map();

  function element(space, tag, attributes, children) {
    const made = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === undefined || value === null || value === false) continue;
      if (typeof value === "function") made.addEventListener(name.replace(/^on/, ""), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
    return made;
  }

  function bytes(text) {
    const raw = atob(text);
    const found = new Uint8Array(raw.length);
    for (let k = 0; k < raw.length; k++) found[k] = raw.charCodeAt(k);
    return found;
  }

  function floats(text) {
    const raw = bytes(text);
    const view = new DataView(raw.buffer);
    const found = new Float32Array(raw.length / 4);
    for (let k = 0; k < found.length; k++) found[k] = view.getFloat32(4 * k, true);
    return found;
  }

  function number(x, digits = 4) {
    if (!Number.isFinite(x)) return Number.isNaN(x) ? "no number" : x > 0 ? "∞" : "−∞";
    const size = Math.abs(x);
    const text = size !== 0 && (size < 1e-4 || size >= 1e6) ? x.toExponential(Math.max(0, digits - 1)) : String(Number(x.toPrecision(digits)));
    return text.replaceAll("-", "−");
  }

  // The largest of 1, 2, 5, 10 ... that is not above x.
  function tenth(x) {
    const power = 10 ** Math.floor(Math.log10(x));
    return power * (x / power >= 5 ? 5 : x / power >= 2 ? 2 : 1);
  }

  // About so many round numbers from low to high.
  function ticks(low, high, about) {
    const step = tenth(((high - low) / about) * 1.5);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(6)));
    return found;
  }

  // 1, 2, 5, 10 ... from low to high, for a logarithmic scale; only powers of ten where that would be many.
  function decades(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) found.push(...[1, 2, 5].map((k) => k * 10 ** power));
    const inside = found.filter((c) => c >= low && c <= high);
    return inside.length > 7 ? inside.filter((c) => Math.abs(Math.log10(c) % 1) < 1e-9) : inside;
  }

  function data(name) {
    if (!parsed.has(name)) {
      const found = document.getElementById(`data-${name}`);
      parsed.set(name, found ? JSON.parse(found.textContent) : null);
    }
    return parsed.get(name);
  }

  function open(name) {
    const start = starts.get(name);
    if (!start) return;
    starts.delete(name);
    start(document.getElementById(name), data(name));
  }

  function begin() {
    const near = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => open(entry.target.id)),
      { rootMargin: "600px" },
    );
    for (const name of starts.keys()) near.observe(document.getElementById(name));
    // What is far away starts as soon as nothing else is to be done: whoever prints the page wants all of it.
    const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 100));
    const rest = () => {
      const [name] = starts.keys();
      if (!name) return;
      open(name);
      idle(rest);
    };
    window.addEventListener("load", () => idle(rest));
    window.addEventListener("beforeprint", () => [...starts.keys()].forEach(open));

    const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
    const seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          if (!entry.isIntersecting) continue;
          links.forEach((link) => link.removeAttribute("aria-current"));
          const link = links.get(entry.target.id);
          link.setAttribute("aria-current", "true");
          const bar = link.closest("ol");
          bar.scrollTo({ left: link.offsetLeft - bar.clientWidth / 2 + link.offsetWidth / 2 });
        }
      },
      { rootMargin: "-30% 0px -65% 0px" },
    );
    for (const name of links.keys()) seen.observe(document.getElementById(name));
  }

  return {
    html: (tag, attributes, ...children) => element(null, tag, attributes, children),
    svg: (tag, attributes, ...children) => element("http://www.w3.org/2000/svg", tag, attributes, children),
    section: (name, start) => starts.set(name, start),
    bytes,
    floats,
    number,
    tenth,
    ticks,
    decades,
    data,
    open,
    begin,
  };
})();
