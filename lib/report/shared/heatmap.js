// A caption whose words show their attention weights as a heat map. The report and the demo share this file.
"use strict";

// Writes the words into the element `caption`. If the model has attention, each word is a button. While the pointer or
// the focus is on a word, `canvas` shows the weights of this word. The Tab key moves the focus to the first word, and
// the arrow keys move it between words.
// `cropBox` is the part of the image that the CNN sees: left, top, width and height in percent. `text` is the complete
// caption. It is needed because not all languages have blanks between words.
function showCaption(caption, canvas, words, attention, cropBox, text = words.join(" ")) {
  canvas.hidden = true;
  if (attention.length === 0) {
    caption.textContent = text || "(no words)";
    return;
  }
  const [left, top, width, height] = cropBox.map((percent) => `${percent}%`);
  Object.assign(canvas.style, { left, top, width, height });
  const buttons = words.map((word, t) => {
    const button = document.createElement("button");
    button.onmouseenter = button.onfocus = () => drawHeatMap(canvas, attention[t]);
    button.onmouseleave = button.onblur = () => (canvas.hidden = true);
    return Object.assign(button, { type: "button", textContent: word, tabIndex: t === 0 ? 0 : -1 });
  });
  let end = 0; // where the previous word ends in `text`
  for (const [index, button] of buttons.entries()) {
    const start = text.indexOf(words[index], end);
    caption.append(text.slice(end, start), button);
    end = start + words[index].length;
  }
  caption.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const rightToLeft = getComputedStyle(caption).direction === "rtl";
    buttons[buttons.indexOf(event.target) + (rightToLeft ? -step : step)]?.focus();
    event.preventDefault();
  };
}

// Draws one pixel per region of a square grid, from dark blue to transparent amber. The browser scales and smooths it.
// `digits` has one base-36 digit (0 to z) per region: the weight.
function drawHeatMap(canvas, digits) {
  canvas.width = canvas.height = Math.sqrt(digits.length);
  const pixels = [...digits].flatMap((digit) => {
    const weight = parseInt(digit, 36) / 35;
    return [20 + 235 * weight, 20 + 150 * weight, 60 - 40 * weight, 190 - 120 * weight];
  });
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels), canvas.width), 0, 0);
  canvas.hidden = false;
}
