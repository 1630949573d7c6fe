"use strict";
// Titles become one tooltip that pointer, keyboard and touch share; arrow keys walk the cells of a map.
const tip = document.getElementById("tip");
let told = null;
for (const of of document.querySelectorAll("[title]")) {
  of.dataset.tip = of.title;
  of.removeAttribute("title");
}
function hide() {
  tip.hidden = true;
  told?.removeAttribute("aria-describedby");
  told = null;
}
function show(of) {
  hide();
  told = of;
  tip.textContent = of.dataset.tip;
  tip.hidden = false;
  of.setAttribute("aria-describedby", "tip");
  place();
}
function place() {
  if (!told) return;
  const at = told.getBoundingClientRect(), wide = document.documentElement.clientWidth;
  if (at.bottom < 0 || at.top > innerHeight) return hide();
  tip.style.left = tip.style.top = "0px";
  const own = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(at.left + at.width / 2 - own.width / 2, wide - own.width - 8)) + "px";
  tip.style.top = (at.top > own.height + 12 ? at.top - own.height - 8 : at.bottom + 8) + "px";
}
for (const [on, off] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
  document.addEventListener(on, (e) => { const of = e.target.closest("[data-tip]"); if (of) show(of); });
  document.addEventListener(off, hide);
}
addEventListener("scroll", place, { capture: true, passive: true });
const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") hide();
  if (!(e.key in step) || e.ctrlKey || e.metaKey || e.altKey) return;
  const [x, y] = step[e.key], cell = e.target.closest("[role=grid] td"), ridge = e.target.closest(".ridge");
  let next = null;
  if (cell) {
    const row = cell.parentElement, rows = row.parentElement.rows;
    next = (y ? rows[row.sectionRowIndex + y] : row)?.cells[cell.cellIndex + x];
  }
  if (ridge && y) next = y > 0 ? ridge.nextElementSibling : ridge.previousElementSibling;
  if (!next?.matches("td, .ridge")) return;
  e.preventDefault();
  e.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest", inline: "nearest" });
});
