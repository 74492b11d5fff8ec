"""What no page may have: faint text, words broken inside, text that is cut, things off the edge."""

from __future__ import annotations

from typing import Any

# Texts that are shown, each with the element that holds it.
_TEXTS = """const texts = () => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, holder = node.parentElement;
    if (!node.data.trim() || holder.closest('script, style, noscript, title, option')) continue;
    if (holder.closest('.visually-hidden')) continue;
    if (!holder.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || box.right <= 0 || hiddenFromSight(holder)) continue;
    found.push([node, holder]);
  }
  return found;
};
const hiddenFromSight = element => {
  for (let each = element; each; each = each.parentElement) {
    if (getComputedStyle(each).clipPath.startsWith('inset(50%')) return true;
  }
  return false;
};"""

# Colours on their way to others are no fault.
_SETTLED = """Promise.all(document.getAnimations()
  .filter(each => Number.isFinite(each.effect.getComputedTiming().endTime))
  .map(each => each.finished.catch(() => null)))"""

_CONTRAST = (
    """() => {"""
    + _TEXTS
    + """
  const parts = colour => {
    const values = (colour.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const scale = colour.startsWith('color(') ? 255 : 1;
    return [...values.slice(0, 3).map(value => value * scale), values[3] ?? 1];
  };
  const over = (above, alpha, below) =>
    above.map((value, i) => alpha * value + (1 - alpha) * below[i]);
  const ground = element => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const style = getComputedStyle(each), [r, g, b, a] = parts(style.backgroundColor);
      layers.push([[r, g, b], a]);
      if (a === 1) break;
    }
    return layers.reverse().reduce((below, [colour, a]) => over(colour, a, below), [255, 255, 255]);
  };
  const light = colour => {
    const [r, g, b] = colour.map(value => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const faint = [];
  for (const [node, holder] of texts()) {
    if (holder.closest(':disabled, [aria-disabled=true]')) continue;
    const style = getComputedStyle(holder), below = ground(holder);
    const [r, g, b, a] = parts(holder.closest('svg') ? style.fill : style.color);
    let alpha = a;
    for (let each = holder; each; each = each.parentElement) {
      alpha *= getComputedStyle(each).opacity;
    }
    const [one, two] = [light(over([r, g, b], alpha, below)), light(below)];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const line = `${ratio.toFixed(2)}: ${node.data.trim().slice(0, 40)}`;
    if (ratio < (large ? 3 : 4.5)) faint.push(line);
  }
  return faint;
}"""
)

_BROKEN = (
    """() => {"""
    + _TEXTS
    + """
  const broken = [];
  for (const [node, holder] of texts()) {
    if (holder.closest('pre, code, textarea')) continue;
    for (const {0: word, index} of node.data.matchAll(/(?<!\\w)\\p{L}{2,16}(?!\\w)/gu)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (lines.size > 1) broken.push(word);
    }
  }
  return broken;
}"""
)

_CUT = (
    """() => {"""
    + _TEXTS
    + """
  const width = document.documentElement.clientWidth, cut = new Set();
  for (const [node, holder] of texts()) {
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    let [left, right] = [0, width];
    for (let each = holder; each; each = each.parentElement) {
      const style = getComputedStyle(each), own = each.getBoundingClientRect();
      if (style.overflowX !== 'visible') {
        left = Math.max(left, own.left);
        right = Math.min(right, own.right);
      }
    }
    const clipped = holder.clientWidth > 0 && holder.scrollWidth > holder.clientWidth + 1
      && getComputedStyle(holder).overflowX !== 'visible';
    const outside = box.left < left - 1.5 || box.right > right + 1.5;
    if (outside || clipped) cut.add(node.data.trim().slice(0, 40));
  }
  return [...cut];
}"""
)

# Values under the arrow of a list: gradio draws it in the input's own place.
_COVERED = """() => [...document.querySelectorAll('input')].filter(input => {
  const icon = input.closest('.wrap-inner, .secondary-wrap, .wrap')?.querySelector('.icon-wrap');
  if (!icon?.checkVisibility() || input.type !== 'text' || !input.value) return false;
  const style = getComputedStyle(input), pen = document.createElement('canvas').getContext('2d');
  pen.font = style.font;
  const start = input.getBoundingClientRect().left + parseFloat(style.paddingLeft);
  const end = start + pen.measureText(input.value).width;
  return end > icon.getBoundingClientRect().left + 1;
}).map(input => input.value)"""


def faults(page: Any) -> dict[str, list[str]]:
    """Every fault of the page as it is shown now, by kind; an empty dict for none."""
    page.evaluate(_SETTLED)
    kinds = {"faint": _CONTRAST, "broken": _BROKEN, "cut": _CUT, "covered": _COVERED}
    found = {kind: page.evaluate(script) for kind, script in kinds.items()}
    return {kind: texts for kind, texts in found.items() if texts}
