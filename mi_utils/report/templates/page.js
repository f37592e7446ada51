"use strict";
// Without this script the page reads the same; it adds sorting, filters and enlarged figures.

// A cell's value: null where it says that there is none, a number where it has one, else its text.
const value = (cell) =>
  !cell || "none" in cell.dataset ? null : "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim();

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // the missing come last, whichever way
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sort(header) {
  const table = header.closest("table");
  const column = [...header.parentNode.children].indexOf(header);
  const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of header.parentNode.children)
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
  rows.sort((a, b) => compare(a[0], b[0], sign));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

const papers = document.getElementById("by-paper");
const verdicts = document.getElementById("by-verdict");

function filter() {
  const rows = [...document.querySelectorAll("#claims tbody tr")];
  for (const row of rows)
    row.hidden =
      (papers.value && row.dataset.paper !== papers.value) || (verdicts.value && row.dataset.verdict !== verdicts.value);
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("shown").textContent = `${shown} of ${rows.length} rows`;
}

const dialog = document.getElementById("zoom");
const body = dialog.querySelector(".zoom-body");
const size = document.getElementById("zoom-size");

function resize(full) {
  body.classList.toggle("full", full);
  size.setAttribute("aria-pressed", String(full));
}

function enlarge(button) {
  const source = button.querySelector("img");
  const image = document.getElementById("zoom-image");
  image.src = source.src;
  image.alt = source.alt;
  document.getElementById("zoom-name").textContent = source.alt;
  resize(false);
  dialog.showModal();
}

for (const button of document.querySelectorAll(".sort"))
  button.addEventListener("click", () => sort(button.closest("th")));
for (const button of document.querySelectorAll(".zoom")) button.addEventListener("click", () => enlarge(button));
for (const list of [papers, verdicts]) list.addEventListener("change", filter);
size.addEventListener("click", () => resize(!body.classList.contains("full")));
document.getElementById("zoom-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target === body) dialog.close();
});
document.querySelector(".filters").hidden = false;
filter();
