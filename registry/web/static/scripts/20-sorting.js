"use strict";
/* Rows of a table with `data-sorts` by a column, one page of them: headings become buttons. What has no value stays at the end. */
(() => {
  const BYTES = { B: 0, KiB: 1, MiB: 2, GiB: 3, TiB: 4 };
  const words = new Intl.Collator(undefined, { numeric: true });
  const valueOf = (cell) => {
    const time = cell.querySelector("time");
    if (time !== null) return Date.parse(time.dateTime);
    const text = (cell.querySelector(".score b") ?? cell.querySelector("a") ?? cell).textContent.trim();
    if (text === "" || text === "–") return null;
    const size = /^([\d.]+) ([KMGT]?i?B)$/.exec(text);
    if (size !== null && size[2] in BYTES) return Number(size[1]) * 1024 ** BYTES[size[2]];
    const number = Number(text.replaceAll(",", ""));
    return Number.isNaN(number) ? text : number;
  };
  const compared = (one, other) => (typeof one === "number" && typeof other === "number" ? one - other : words.compare(one, other));
  const sort = (heading) => {
    const table = heading.closest("table"), body = table.tBodies[0], at = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map((row) => [valueOf(row.cells[at]), row]);
    const there = rows.filter(([value]) => value !== null).sort(([one], [other]) => (down ? -1 : 1) * compared(one, other));
    body.append(...[...there, ...rows.filter(([value]) => value === null)].map(([, row]) => row));
  };
  const addSorting = () => {
    for (const heading of document.querySelectorAll("table[data-sorts] > thead th")) {
      const table = heading.closest("table");
      if (table.tBodies[0].rows.length < 2 || heading.firstElementChild !== null) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = heading.textContent;
      button.addEventListener("click", () => sort(heading));
      heading.replaceChildren(button);
    }
  };
  document.addEventListener("DOMContentLoaded", addSorting);
})();
