const byId = (id) => document.getElementById(id);

// Sends an image file to the server and shows the captions or the error.
async function caption(file) {
  byId("error").textContent = "";
  byId("result").hidden = true;
  byId("status").textContent = "Captioning…";
  let answer;
  try {
    const response = await fetch("caption", { method: "POST", body: file });
    answer = await response.json();
  } catch {
    answer = { error: "The server does not answer. Check that it is still running." };
  }
  byId("status").textContent = "";
  if (answer.error) byId("error").textContent = answer.error;
  else showResult(file, answer);
}

function showResult(file, { candidates, cropBox }) {
  URL.revokeObjectURL(byId("image").src);
  byId("image").src = URL.createObjectURL(file);
  const canvas = document.querySelector("canvas");
  const items = candidates.map(({ text, tokens, score, mean_score: meanScore, attention }) => {
    const [item, words, scores] = ["li", "div", "div"].map((tag) => document.createElement(tag));
    words.className = "caption";
    showCaption(words, canvas, tokens, attention, cropBox, text);
    scores.className = "hint";
    scores.textContent = `${score.toFixed(2)}, ${meanScore.toFixed(2)} per word`;
    item.append(words, scores);
    return item;
  });
  byId("candidates").replaceChildren(...items);
  byId("result").hidden = false;
}

byId("file").addEventListener("change", () => {
  const [file] = byId("file").files;
  byId("file").value = ""; // so that the same file can be chosen again
  if (file) caption(file);
});
addEventListener("dragover", (event) => {
  event.preventDefault(); // otherwise the browser opens the dropped file
  byId("drop").classList.add("over");
});
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) caption(file);
});
