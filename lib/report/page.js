// The gallery: a card for each of the pictures that gallery.js holds, in the order and with the words asked for.
"use strict";

const SOME = 24; // cards that are made at a time
const SEED = 1; // of the random order, which is thus the same at each visit

const form = document.querySelector("form");
const cards = document.querySelector(".cards");
const end = document.getElementById("end");
const template = document.getElementById("card");

if (window.galleryData) {
  start(window.galleryData);
} else {
  form.elements.count.value = "The file gallery.js is not beside this page.";
}

function start(gallery) {
  const { pictures, scores } = gallery;
  const { order, score, query, count } = form.elements;
  scores.forEach((name, index) => score.add(new Option(name, index)));
  document.getElementById("hover").hidden = !pictures.some((picture) => picture.looked);
  // Most pictures fill their frame.
  cards.style.setProperty("--frame", median(pictures.map(({ size: [width, height] }) => width / height)));
  pictures.forEach((picture, place) => {
    picture.place = place;
    picture.text = searchable([...picture.words, ...picture.references].join(" "));
  });

  let waiting = []; // pictures asked for that have no card yet

  // Cards are made when the end of the page comes near: five thousand at once would take seconds.
  const watcher = new IntersectionObserver(([seen]) => seen.isIntersecting && makeSome(), { rootMargin: "100%" });

  function makeSome() {
    cards.append(...waiting.splice(0, SOME).map((picture) => card(gallery, picture, score.value, query.value !== "")));
    watcher.unobserve(end);
    if (waiting.length > 0) watcher.observe(end); // anew: it tells of changes alone, and the end may still be near
  }

  function show() {
    const asked = searchable(query.value).trimEnd();
    const found = pictures.filter((picture) => hasWords(picture.text, asked));
    waiting = ordered(found, order.value, score.value);
    count.value = `${found.length} of ${pictures.length} pictures`;
    cards.replaceChildren();
    makeSome();
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

// Order and search

function ordered(pictures, order, score) {
  if (order === "best") return pictures.toSorted((a, b) => b.scores[score] - a.scores[score]);
  if (order === "worst") return pictures.toSorted((a, b) => a.scores[score] - b.scores[score]);
  return order === "random" ? shuffled(pictures) : [...pictures];
}

// Fisher and Yates's shuffle, with the random numbers of mulberry32.
function shuffled(items) {
  const result = [...items];
  let state = SEED;
  for (let i = result.length - 1; i > 0; i--) {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    const j = ((bits ^ (bits >>> 14)) >>> 0) % (i + 1);
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1];
}

// "A dog, running." becomes " a dog running ".
function searchable(text) {
  return ` ${text.toLowerCase().split(/[\s\p{P}]+/u).filter(Boolean).join(" ")} `;
}

// Whether each word asked for begins a word of the text.
function hasWords(text, asked) {
  return asked.split(" ").every((word) => text.includes(` ${word}`));
}

// Cards. What a model or people wrote goes in as text, never as HTML.

function card(gallery, picture, score, withReferences) {
  const { words, references, looked } = picture;
  const item = template.content.cloneNode(true);
  const part = (selector) => item.querySelector(selector);
  showThumbnail(part(".picture"), gallery, picture);
  part("img").alt = references[0];
  if (words.length === 0) {
    part(".caption").append(element("em", "(no words)"));
  } else if (looked) {
    letLook(part(".caption"), part("canvas"), picture);
  } else {
    part(".caption").textContent = words.join(" ");
  }
  part(".score").textContent = `${gallery.scores[score]} ${picture.scores[score].toFixed(2)}`;
  part(".untrue").hidden = picture.true !== false;
  part(".id").textContent = `#${picture.id}`;
  part("details").open = withReferences;
  part("summary").textContent = `${references.length} ${references.length === 1 ? "reference" : "references"}`;
  part("ul").append(...references.map((reference) => element("li", reference, { dir: "auto" })));
  return item;
}

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// Lays the picture's sheet behind the box, which is as a window to it: lengths are shares of the picture's.
function showThumbnail(box, { side, margin, perRow, sheets }, { place, size: [width, height] }) {
  const perSheet = perRow * perRow;
  const cell = place % perSheet;
  const left = side * (cell % perRow) + margin;
  const top = side * Math.floor(cell / perRow) + margin;
  box.style.setProperty("--shape", width / height);
  const sheet = box.querySelector("img");
  sheet.src = sheets[Math.floor(place / perSheet)];
  sheet.style.width = `${(100 * side * perRow) / width}%`;
  sheet.style.left = `${(-100 * left) / width}%`;
  sheet.style.top = `${(-100 * top) / height}%`;
}

// Where the model looked

// Makes each word a button, one of which the tab key reaches and the others the arrow keys. While the pointer is over a
// word, or the focus on it, the canvas shows where the model looked when it chose it.
function letLook(caption, canvas, { words, looked, seen: [left, top, width, height] }) {
  const buttons = words.map((word, t) => element("button", word, { type: "button", tabIndex: t === 0 ? 0 : -1 }));
  caption.append(...buttons.flatMap((button) => [button, " "]));
  canvas.width = canvas.height = Math.sqrt(looked[0].length);
  Object.assign(canvas.style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });

  function look({ target }) {
    const t = buttons.indexOf(target);
    canvas.hidden = t < 0;
    if (t >= 0) drawHeat(canvas, looked[t]);
  }

  function move(event) {
    const forward = getComputedStyle(caption).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    buttons[buttons.indexOf(event.target) + (event.key === forward ? 1 : -1)]?.focus();
    event.preventDefault();
  }

  for (const type of ["mouseover", "focusin"]) caption.addEventListener(type, look);
  for (const type of ["mouseout", "focusout"]) caption.addEventListener(type, () => (canvas.hidden = true));
  caption.addEventListener("keydown", move);
}

// A pixel a place, which the browser smooths: from night blue, where the model hardly looked, to amber. A weight is a
// digit from 0 to z, 35.
function drawHeat(canvas, digits) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  for (const [place, digit] of [...digits].entries()) {
    const weight = parseInt(digit, 36) / 35;
    pixels.data.set([20 + 235 * weight, 20 + 150 * weight, 60 - 40 * weight, 190 - 120 * weight], 4 * place);
  }
  context.putImageData(pixels, 0, 0);
}
