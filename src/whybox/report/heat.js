"use strict";
/** Heat maps on a canvas, and small pieces that pages with them share. */
const heat = (() => {
  // Interpolated values lie between the 256 stored steps: without quarters of them, smooth parts show bands.
  const STEPS = 4;

  function bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  /** All w * h steps of a map, from the part of it that is stored. */
  function unfold(map) {
    const [left, top, wide, high] = map.part;
    const stored = bytes(map.data);
    const steps = new Uint8Array(map.w * map.h);
    for (let row = 0; row < high; row++) steps.set(stored.subarray(row * wide, (row + 1) * wide), (top + row) * map.w + left);
    return steps;
  }

  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  /** 0.0123 stays so; very small and very large numbers become 1.23×10⁻⁵. */
  function write(value) {
    if (value === null) return "not a number";
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 0.01 && size < 10000) return String(Number(value.toPrecision(3)));
    const [digits, power] = value.toExponential(2).split("e");
    const raised = [...String(Number(power))].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");
    return `${digits}×10${raised}`;
  }

  const writeTime = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`);

  /** RGBA for a value, as `blend` in overlay.py has it: opacity * t * (2 - t). scale: {low, high, signed, table, opacity}. */
  function color(value, { low, high, signed, table, opacity }) {
    const place = high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : signed ? 0.5 : 0;
    const strength = signed ? Math.abs(2 * place - 1) : place;
    const row = Math.round(place * 255) * 3;
    return [table[row], table[row + 1], table[row + 2], 255 * opacity * strength * (2 - strength)];
  }

  /** Colors for every quarter of the 256 stored steps of a map. */
  function paletteOf(map, scale) {
    const palette = new Uint8ClampedArray((255 * STEPS + 1) * 4);
    for (let i = 0; i <= 255 * STEPS; i++) {
      palette.set(color(map.low + (i / (255 * STEPS)) * (map.high - map.low), scale), i * 4);
    }
    return palette;
  }

  /** For each of `count` pixels over cells `start` to `start + length` of `cells`: two neighbors and the second's share. */
  function neighbors(count, start, length, cells) {
    return Array.from({ length: count }, (_, i) => {
      const at = Math.min(cells - 1, Math.max(0, start + ((i + 0.5) / count) * length - 0.5));
      const first = Math.floor(at);
      return [first, Math.min(cells - 1, first + 1), at - first];
    });
  }

  /** Paint the part `view` (x, y, w, h as shares of the map) over a whole canvas; bilinear, as HeatMaps.at_image is. */
  function paint(canvas, map, view, scale) {
    const { width, height } = canvas;
    const across = neighbors(width, view.x * map.w, view.w * map.w, map.w);
    const down = neighbors(height, view.y * map.h, view.h * map.h, map.h);
    const image = new ImageData(width, height);
    // Whole pixels and not single channels: a quarter of the writes.
    const pixels = new Uint32Array(image.data.buffer);
    const colors = new Uint32Array(paletteOf(map, scale).buffer);
    let at = 0;
    for (const [top, bottom, low] of down) {
      for (const [left, right, far] of across) {
        const above = map.values[top * map.w + left] * (1 - far) + map.values[top * map.w + right] * far;
        const below = map.values[bottom * map.w + left] * (1 - far) + map.values[bottom * map.w + right] * far;
        pixels[at++] = colors[Math.round((above * (1 - low) + below * low) * STEPS)];
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  /** The colors from one end of a scale to the other, on a canvas 256 wide and 1 high. */
  function paintBar(canvas, scale) {
    const context = canvas.getContext("2d");
    const strip = context.createImageData(256, 1);
    for (let i = 0; i < 256; i++) strip.data.set(color(scale.low + (i / 255) * (scale.high - scale.low), scale), i * 4);
    context.putImageData(strip, 0, 0);
  }

  const writeShare = (share) => `${Math.round(share * 100)} %`.replace("-", "−");

  /** A word's weight in its text, in words. */
  function weigh(word) {
    const parts = word.tokens.map(([token, value]) => `“${token}” ${write(value)}`);
    const tokens = parts.length > 1 ? ` (${parts.join(" + ")})` : "";
    return `Weight of this word in the text: ${write(word.weight)}${tokens}, ${writeShare(word.share)} of all words.`;
  }

  /** A word over its share of the text's weight. */
  function layWord(tag, word) {
    const node = make(tag, { className: "word", title: weigh(word) }, word.text);
    node.append(make("small", { textContent: writeShare(word.share).replace(" %", "") }));
    node.classList.toggle("against", word.weight < 0);
    return node;
  }

  /** Color a word by its weight; `most` has the full color. */
  function tint(node, word, most) {
    node.style.setProperty("--weight", most ? (0.62 * Math.abs(word.weight)) / most : 0);
  }

  const wordsOf = (pieces) => pieces.filter((piece) => "weight" in piece);

  /** A text from its pieces: lay makes a node of a word. */
  function layText(pieces, lay) {
    return pieces.map((piece) => {
      if ("weight" in piece) return lay(piece);
      return piece.cut ? make("s", { textContent: piece.text, title: "Truncated: not part of the model's input." }) : piece.text;
    });
  }

  return { bytes, make, write, writeTime, unfold, paint, paintBar, writeShare, weigh, layWord, tint, wordsOf, layText };
})();
