// A table of which the page holds only the rows around those in sight. The kernel sorts, filters and selects.

const ROW = 22; // px, as in surface.css

function makeGrid(name, send) {
  const filter = make("input", "v6-filter", {
    type: "search",
    placeholder: "filter…  /",
    "aria-label": "filter rows",
    spellcheck: "false",
  });
  const count = make("span", "v6-words", { role: "status" });
  const widths = make("colgroup");
  const heads = make("tr", "", { role: "row", "aria-rowindex": 1 });
  const above = make("tbody", "", { "aria-hidden": "true" }, make("tr", "", {}, make("td")));
  const rows = make("tbody");
  const below = above.cloneNode(true);
  const table = make("table", "", { role: "grid", "aria-multiselectable": "true", tabindex: 0 });
  table.append(widths, make("thead", "", {}, heads), above, rows, below);
  const scroller = make("div", "v6-scroll", {}, table);

  let grid = { columns: [], rows: [], start: 0, total: 0 };
  let pending = 0; // the message that asked for other rows; what is drawn before its answer is not about it
  let follows = false; // a key moved the cursor, so the answer brings it into sight

  let stop = 0; // the head at which the Tab key stops; arrows go on from there
  heads.addEventListener("keydown", (event) => {
    const next = event.target.closest("th")?.[{ ArrowLeft: "previousSibling", ArrowRight: "nextSibling" }[event.key]];
    if (!next) return;
    heads.children[stop].firstChild.tabIndex = -1;
    stop = [...heads.children].indexOf(next);
    next.firstChild.tabIndex = 0;
    next.firstChild.focus();
    event.stopPropagation();
    event.preventDefault();
  });

  function drawHeads() {
    stop = Math.max(0, Math.min(stop, grid.columns.length - 1));
    fill(widths, grid.columns, () => make("col"), (col, { width }) => (col.style.width = width ? `${width + 2}ch` : ""));
    fill(
      heads,
      grid.columns,
      () => make("th", "", { role: "columnheader", scope: "col" }, make("button", "", { type: "button" })),
      (head, column, index) => {
        head.firstChild.tabIndex = index === stop ? 0 : -1;
        head.className = column.number ? "v6-number" : "";
        head.setAttribute("aria-sort", column.sort);
        head.dataset.column = column.name;
        head.title = column.hint;
        const arrow = { ascending: " ▴", descending: " ▾", none: "" }[column.sort];
        write(head.firstChild, column.title + arrow);
        head.firstChild.onclick = () => {
          scroller.scrollTop = 0;
          send("sort", { column: column.name });
        };
      },
    );
  }

  function drawRow(row, { key, cells, selected, tones, was, old: before = {} }, index) {
    if (row.dataset.key !== key) {
      row.dataset.key = key;
      for (const cell of row.children) cell.classList.remove("v6-changed");
    }
    row.id = `${name}-${grid.start + index}`;
    row.setAttribute("aria-selected", selected);
    row.setAttribute("aria-rowindex", grid.start + index + 2);
    fill(
      row,
      cells,
      () => make("td", "", { role: "gridcell" }, make("span")),
      (cell, text, number) => {
        const old = was[number];
        write(cell.firstChild, text);
        cell.classList.toggle("v6-number", grid.columns[number].number);
        cell.classList.toggle("v6-none", text === "–");
        cell.dataset.tone = tones[number] ?? "";
        cell.classList.toggle("v6-differs", number in before);
        cell.title = number in before ? `was: ${before[number]}` : old !== undefined ? `was: ${old}` : text.length > 12 ? text : "";
        if (old !== undefined) {
          cell.classList.remove("v6-changed");
          void cell.offsetWidth; // lets the animation begin again
          cell.classList.add("v6-changed");
        }
      },
    );
  }

  /** Draw what the kernel says, and which of our messages it had heard by then. */
  function draw(next, heard) {
    grid = next;
    if (heard >= pending) pending = 0;
    drawHeads();
    fill(rows, grid.rows, () => make("tr", "", { role: "row" }), drawRow);
    above.firstChild.style.height = `${grid.start * ROW}px`;
    below.firstChild.style.height = `${Math.max(0, grid.total - grid.start - grid.rows.length) * ROW}px`;
    table.setAttribute("aria-rowcount", grid.total + 1);
    table.setAttribute("aria-activedescendant", grid.cursor === null ? "" : `${name}-${grid.cursor}`);
    if (grid.total) delete scroller.dataset.empty;
    else scroller.dataset.empty = grid.of ? `none of ${grid.of.toLocaleString("en")} rows match` : "no rows";
    const shown = grid.total === grid.of ? "" : ` of ${grid.of.toLocaleString("en")}`;
    const chosen = grid.selected ? ` · ${grid.selected.toLocaleString("en")} selected` : "";
    write(count, `${grid.total.toLocaleString("en")}${shown} ${grid.total === 1 && !shown ? "row" : "rows"}${chosen}`);
    if (document.activeElement !== filter && filter.value !== grid.filter) filter.value = grid.filter;
    if (follows && !pending) {
      follows = false;
      if (grid.cursor !== null) reveal(grid.cursor);
    }
    ask();
  }

  function reveal(row) {
    const room = scroller.clientHeight - 2 * ROW; // less the heads, and one row
    const top = row * ROW;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
  }

  /** Ask for the rows in sight if they are not here; one question at a time, so that a long drag does not pile up. */
  function ask() {
    const first = Math.floor(scroller.scrollTop / ROW);
    const last = Math.min(grid.total, first + Math.ceil(scroller.clientHeight / ROW));
    const isHere = first >= grid.start && last <= grid.start + grid.rows.length;
    if (isHere || pending || last <= first) return;
    pending = send("window", { row: first });
  }

  scroller.addEventListener("scroll", ask, { passive: true });

  rows.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (!row) return;
    const how = event.shiftKey ? "range" : event.ctrlKey || event.metaKey ? "toggle" : "one";
    send("pick", { key: row.dataset.key, how });
  });

  let typed = 0;
  filter.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(() => {
      scroller.scrollTop = 0;
      send("filter", { text: filter.value });
    }, 120);
  });
  filter.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") table.focus({ preventScroll: true });
    else if (event.key !== "Escape" || !filter.value) return;
    else clearFilter();
    event.preventDefault();
  });

  function clearFilter() {
    clearTimeout(typed);
    filter.value = "";
    send("filter", { text: "" });
  }

  const page = () => Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);
  const STEPS = {
    ArrowDown: () => 1,
    ArrowUp: () => -1,
    PageDown: page,
    PageUp: () => -page(),
    End: () => grid.total,
    Home: () => -grid.total,
  };

  table.addEventListener("keydown", (event) => {
    if (event.key in STEPS) {
      follows = true;
      pending = send("move", { by: STEPS[event.key](), extend: event.shiftKey });
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) send("all");
    else return;
    event.preventDefault();
  });

  /** Do what a key means anywhere in the panel; return whether it means something here. */
  function press({ key }) {
    if (key === "/" && !filter.hidden) filter.focus();
    else if (key === "Escape" && grid.selected) send("none");
    else if (key === "Escape" && grid.filter) clearFilter();
    else return false;
    return true;
  }

  /** Take the focus from what has gone, or the keys would be nowhere. */
  function focus() {
    table.focus({ preventScroll: true });
  }

  return { filter, scroller, count, draw, focus, press };
}
