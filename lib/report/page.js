// The gallery: one card per image in gallery.js. The form sorts and searches the cards.

const CARDS_PER_STEP = 24;
// Letters of scripts without blanks between words. In a text of such a script, a word may start at any letter.
const noBlanks = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}]/u;

const form = document.querySelector("form");
const cards = document.querySelector(".cards");
const end = document.getElementById("end");

if (window.galleryData) startGallery(window.galleryData);
else form.elements.count.value = "gallery.js is missing. It must be in the folder of this page.";

function startGallery({ images, scores, ...layout }) {
  const { order, score, query, count } = form.elements;
  scores.forEach((name, index) => score.add(new Option(name, index)));
  images.forEach((image, index) => {
    const text = searchable([image.caption ?? image.words.join(" "), ...image.references].join(" "));
    Object.assign(image, { index, text, random: Math.random(), shape: image.size[0] / image.size[1] });
  });
  document.getElementById("hover").hidden = !images.some(({ attention }) => attention.length);
  // The frames have the median shape of the images, so that most images fill their frame.
  cards.style.setProperty("--frame", images.map(({ shape }) => shape).sort((a, b) => a - b)[images.length >> 1]);

  let remaining = []; // images that match the search and have no card yet
  // Add cards when the end of the page is near, because adding thousands at once takes seconds.
  const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && addCards(), { rootMargin: "100%" });

  function addCards() {
    const scoreName = scores[score.value];
    for (const image of remaining.splice(0, CARDS_PER_STEP)) {
      const card = createCard(image, layout);
      card.querySelector(".score").textContent = `${scoreName} ${image.scores[score.value].toFixed(2)}`;
      card.querySelector("details").open = query.value !== "";
      cards.append(card);
    }
    observer.unobserve(end);
    if (remaining.length > 0) observer.observe(end); // restarted, because an observer reports only changes
  }

  form.oninput = () => {
    const starts = searchable(query.value).trimEnd().split(" "); // a text matches if each is the start of a word in it
    const found = (text, start) => text.includes(noBlanks.test(start) ? start : ` ${start}`);
    const matches = images.filter(({ text }) => starts.every((start) => found(text, start)));
    const key = (image) => {
      const value = image.scores[score.value];
      return { id: image.index, best: -value, worst: value, random: image.random }[order.value];
    };
    remaining = matches.sort((a, b) => key(a) - key(b));
    count.value = `${matches.length} of ${images.length} images`;
    cards.replaceChildren();
    addCards();
  };
  form.onsubmit = (event) => event.preventDefault();
  form.oninput();
}

// Converts "A dog, running." to " a dog running ".
function searchable(text) {
  return ` ${text.toLowerCase().split(/[\s\p{P}]+/u).filter(Boolean).join(" ")} `;
}

// Captions and references are inserted as text, never as HTML.
function createCard({ id, index, words, caption, references, shape, size, attention, cropBox, true: isTrue }, layout) {
  const card = document.getElementById("card").content.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  find(".picture").style.setProperty("--shape", shape);
  showThumbnail(find("img"), index, size, layout);
  find("img").alt = references[0];
  showCaption(find(".caption"), find("canvas"), words, attention, cropBox, caption);
  find(".untrue").hidden = isTrue !== false;
  find(".id").textContent = `#${id}`;
  find("summary").textContent = `References (${references.length})`;
  const item = (textContent) => Object.assign(document.createElement("li"), { textContent, dir: "auto" });
  find("ul").append(...references.map(item));
  return card;
}

// Moves the sprite so that the cell of the image is visible.
function showThumbnail(img, index, [width, height], { side, margin, perRow, sprites }) {
  const cell = index % perRow ** 2;
  const left = side * (cell % perRow) + margin;
  const top = side * Math.floor(cell / perRow) + margin;
  const percent = (pixels, whole) => `${(100 * pixels) / whole}%`;
  img.src = sprites[Math.floor(index / perRow ** 2)];
  Object.assign(img.style, {
    width: percent(side * perRow, width), left: percent(-left, width), top: percent(-top, height),
  });
}
