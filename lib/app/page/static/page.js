"use strict";

const megabytes = Number(document.body.dataset.megabytes);
const at = (id) => document.getElementById(id);
let newest = 0;  // of the pictures asked for: answers to earlier ones are late, and shown no more

/** Sends a file to the server, and shows its captions or what is wrong. */
async function caption(file) {
  const own = ++newest;
  at("error").textContent = "";
  if (file.size > megabytes * 2 ** 20) {  // the server would say the same, once it had all of it
    return fail(`This file is larger than ${megabytes} MB: choose a smaller one.`);
  }
  at("status").textContent = "Looking…";
  at("result").classList.add("waiting");
  let answer;
  try {
    const response = await fetch("caption", { method: "POST", body: file });
    answer = await response.json();
  } catch {
    answer = { error: "There is no answer: is the program that serves this page still running?" };
  }
  if (own !== newest) return;
  at("status").textContent = "";
  at("result").classList.remove("waiting");
  if (answer.error) fail(answer.error);
  else show(answer);
}

function fail(message) {
  at("status").textContent = "";
  at("result").hidden = true;
  at("error").textContent = message;
}

function show({ picture, seen, candidates }) {
  at("picture").src = picture;
  const [left, top, width, height] = seen.map((share) => `${share}%`);  // of the picture: the part that the CNN saw
  Object.assign(at("heat").style, { left, top, width, height });
  at("candidates").replaceChildren(...candidates.map(listed));
  cool();
  at("result").hidden = false;
}

/** A caption of the beam, as an item of the list. */
function listed({ tokens, score, mean_score: mean, attention }) {
  const item = document.createElement("li");
  tokens.forEach((token, t) => item.append(word(token, attention[t]), " "));
  if (!tokens.length) item.append("(no words)");
  const scores = document.createElement("span");
  scores.className = "score";
  scores.textContent = `${score.toFixed(2)}, ${mean.toFixed(2)} a word`;
  item.append(scores);
  return item;
}

/** A word that shows its attention, if it has any, while one points at it, or once it is tapped. */
function word(token, grid) {
  const element = document.createElement(grid.length ? "button" : "span");
  element.className = "word";
  element.textContent = token;
  if (grid.length) {
    const look = () => heat(element, grid);
    element.type = "button";
    element.addEventListener("pointerenter", look);
    element.addEventListener("focus", look);
    element.addEventListener("click", look);
    element.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && cool());
    element.addEventListener("blur", cool);
  }
  return element;
}

/** Draws the attention as a picture of one pixel a place, which the browser stretches and smooths. */
function heat(element, grid) {
  cool();
  const canvas = at("heat"), rows = grid.length, columns = grid[0].length, most = Math.max(...grid.flat());
  canvas.width = columns;
  canvas.height = rows;
  const pixels = grid.flat().flatMap((weight) => [255, 255 * (1 - weight / most), 0, 204 * weight / most]);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels), columns, rows), 0, 0);
  at("view").classList.add("looking");
  element.classList.add("shown");
}

function cool() {
  at("view").classList.remove("looking");
  document.querySelectorAll(".shown").forEach((element) => element.classList.remove("shown"));
}

at("file").addEventListener("change", () => {
  const [file] = at("file").files;
  at("file").value = "";  // so that the same file can be chosen again
  if (file) caption(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault();  // else the browser would open what is dropped
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) caption(file);
});
