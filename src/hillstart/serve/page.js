"use strict";

const MOST_CLASSES = 8; // bars; further classes are summed up in one line
const MOST_DOTS = 100; // networks that are drawn one by one

const at = (id) => document.getElementById(id);
const show = (id, visible) => { at(id).hidden = !visible; };
// Names come from whoever trained the networks: they are set as text, never as HTML.
const say = (id, text) => { at(id).textContent = text; };

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  element.dir = "auto";
  return element;
}

function percent(p) {
  if (p < 0.0005) return "under 0.1%";
  if (p >= 0.9995 && p < 1) return "over 99.9%";
  return `${(100 * p).toFixed(1)}%`;
}

// ---------------------------------------------------------------- the answer

function bar(name, p) {
  const row = make("li", "", "");
  const track = make("div", "track", "");
  const filled = make("div", "bar", "");
  filled.style.width = `${100 * p}%`;
  track.append(filled);
  row.append(make("span", "", name), make("span", "share", percent(p)), track);
  return row;
}

function opinion({ seed, label, probability }) {
  const row = make("tr", "", "");
  row.append(make("td", "", seed), make("td", "", label), make("td", "", percent(probability)));
  return row;
}

function agreement(label, opinions) {
  const count = opinions.filter((one) => one.label === label).length;
  if (opinions.length === 1) return `One network alone was asked, of seed ${opinions[0].seed}.`;
  return `${count} of ${opinions.length} networks say ${label}.`;
}

function showAnswer({ label, probability, probabilities, unsure, opinions, calibrated = true }) {
  // By probability again: an object's keys that are numbers, as digits are, come in the order of the numbers.
  const ranked = Object.entries(probabilities).sort(([a, p], [b, q]) => q - p || (b === label) - (a === label));
  const rest = ranked.slice(MOST_CLASSES);
  const bars = ranked.slice(0, MOST_CLASSES).map(([name, p]) => bar(name, p));
  if (rest.length) bars.push(bar(`${rest.length} others together`, rest.reduce((sum, [, p]) => sum + p, 0)));
  const dots = opinions.length > 1 && opinions.length <= MOST_DOTS ? opinions : [];

  say("label", label);
  say("probability", percent(probability));
  show("unsure", unsure);
  show("uncalibrated", !calibrated);
  at("classes").replaceChildren(...bars);
  at("dots").replaceChildren(...dots.map((one) => make("i", one.label === label ? "agrees" : "", "")));
  say("agreement", agreement(label, opinions));
  at("opinions").replaceChildren(...opinions.map(opinion));
  show("hint", false);
  show("found", true);
  say("spoken", `${label}, ${percent(probability)}. ${agreement(label, opinions)} ${unsure ? "Unsure." : ""}`);
}

function showError(sentence) {
  show("hint", false);
  show("found", false);
  say("error", sentence);
  show("error", true);
}

// ---------------------------------------------------------------- the picture

let limits = { max_bytes: Infinity };
let asking = new AbortController();

function showPicture(file) {
  URL.revokeObjectURL(at("shown").src);
  at("shown").src = URL.createObjectURL(file);
  at("shown").alt = `The picture ${file.name}`;
  at("zone").classList.add("full");
  show("shown", true);
  show("invitation", false);
  say("choose", "Choose another picture");
}

async function ask(file) {
  asking.abort(); // of two pictures in a row, the later one counts
  asking = new AbortController();
  const { signal } = asking;
  show("error", false);
  say("spoken", "");
  showPicture(file);
  if (file.size > limits.max_bytes) {
    showError(`${file.name}: the file is too large; choose one of at most ${limits.max_bytes / 1e6} MB.`);
    return;
  }
  at("answer").setAttribute("aria-busy", "true");
  try {
    const response = await fetch("predict", { method: "POST", body: file, signal });
    const answer = await response.json();
    if (signal.aborted) return;
    if (response.ok) showAnswer(answer);
    else showError(answer.error.replace("the given bytes", () => file.name));
  } catch {
    if (!signal.aborted) showError("The server does not answer; look whether it still runs, and try again.");
  } finally {
    if (!signal.aborted) at("answer").setAttribute("aria-busy", "false");
  }
}

function given(files) {
  if (files.length === 1) ask(files[0]);
  else if (files.length) showError("These are several files; give one picture at a time.");
}

at("file").addEventListener("change", () => {
  given(at("file").files);
  at("file").value = ""; // so that choosing the same picture again asks again
});

camera({
  open: at("camera"),
  panel: at("camera-view"),
  video: at("camera-video"),
  take: at("camera-take"),
  cancel: at("camera-cancel"),
  complain: (sentence) => (sentence ? showError(sentence) : show("error", false)),
  given: (canvas) => canvas.toBlob((blob) => ask(new File([blob], "Your picture")), "image/jpeg", 0.95),
});

at("shown").addEventListener("error", () => {
  if (!at("shown").getAttribute("src")) return;
  show("shown", false);
  show("invitation", true);
  say("invited", "This browser cannot show that file.");
  at("invited").classList.remove("desk");
  show("or", false);
});

document.addEventListener("paste", (event) => given(event.clipboardData.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("zone").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("zone").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("zone").classList.remove("over");
  given(event.dataTransfer.files);
});

fetch("health")
  .then((response) => response.json())
  .then((about) => {
    limits = about;
    const { classes, seeds } = about;
    const named = classes.length > 12 ? [...classes.slice(0, 12), `${classes.length - 12} more`] : classes;
    const asked = seeds.length === 1 ? "One network answers" : `${seeds.length} networks vote, each from a random start of its own`;
    say("about", `${named.slice(0, -1).join(", ")} or ${named.at(-1)}? ${asked}.`);
  })
  .catch(() => showError("The server does not answer; look whether it still runs, and load this page again."));
