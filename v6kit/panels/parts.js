// What stands between title and grid. Each drawing takes a node, the part as the kernel said it, and how to answer.

/** Fill a table body with rows of texts. */
function fillRows(body, rows, isNumber) {
  fill(body, rows, () => make("tr"), (line, cells) =>
    fill(line, cells, () => make("td"), (cell, text, number) => {
      cell.classList.toggle("v6-number", isNumber(number));
      cell.classList.toggle("v6-none", text === "–");
      write(cell, text);
    }),
  );
}

function fillHeads(row, heads, isNumber) {
  fill(row, heads, () => make("th", "", { scope: "col" }), (head, text, number) => {
    head.classList.toggle("v6-number", isNumber(number));
    write(head, text);
  });
}

const DRAWINGS = {
  chips(node, part, send) {
    fill(
      node,
      part.chips,
      () => make("button", "v6-chip", { type: "button" }, make("i"), make("span"), make("b")),
      (chip, { name, count, on, tone }) => {
        chip.dataset.tone = tone;
        chip.classList.toggle("v6-none", count === "0");
        chip.setAttribute("aria-pressed", on);
        chip.title = on ? `show other than ${name} too` : `show ${name}`;
        chip.onclick = () => send("chip", { name });
        write(chip.children[1], name);
        write(chip.children[2], count);
      },
    );
  },

  meter(node, part) {
    if (!node.firstChild) node.append(make("div", "v6-bar", { role: "img" }), make("span", "v6-words"));
    const [bar, words] = node.children;
    bar.setAttribute("aria-label", part.text);
    fill(
      bar,
      part.segments,
      () => make("i"),
      (segment, { name, share, tone }) => {
        segment.dataset.tone = tone;
        segment.style.width = `${share}%`;
        segment.title = name;
      },
    );
    write(words, part.text);
  },

  steps(node, part) {
    if (!node.firstChild) node.append(make("ol"), make("span", "v6-words"));
    const marks = { done: "✓ ", now: "▸ ", todo: "" };
    fill(
      node.firstChild,
      part.steps,
      () => make("li"),
      (step, [name, state]) => {
        step.dataset.state = state;
        write(step, marks[state] + name);
      },
    );
    write(node.lastChild, part.text);
  },

  bars(node, part) {
    if (!node.firstChild) node.append(make("div", "v6-bars", { role: "img" }), make("span", "v6-words"));
    const [bars, words] = node.children;
    bars.setAttribute("aria-label", part.text);
    fill(
      bars,
      part.bars,
      () => make("i"),
      (bar, { share, tone }) => {
        bar.dataset.tone = tone;
        bar.style.height = `${Math.max(8, share)}%`;
      },
    );
    write(words, part.text);
  },

  note(node, part) {
    node.dataset.tone = part.tone;
    write(node, part.text);
  },

  table(node, part) {
    if (!node.firstChild) {
      node.append(make("div", "v6-words"), make("table"));
      node.lastChild.append(make("thead", "", {}, make("tr")), make("tbody"));
    }
    const [words, table] = node.children;
    write(words, part.text);
    table.hidden = !part.rows.length;
    const isNumber = (column) => part.heads[column][1];
    fillHeads(table.firstChild.firstChild, part.heads.map(([text]) => text), isNumber);
    fillRows(table.lastChild, part.rows.map(({ cells }) => cells), isNumber);
    part.rows.forEach(({ tone }, index) => (table.lastChild.children[index].dataset.tone = tone));
  },
};

/** Draw the parts of a panel; a node is kept while its kind stays. If the focus goes with one, it goes to the rows. */
function drawParts(body, parts, send) {
  const hadFocus = body.contains(document.activeElement);
  while (body.children.length > parts.length) body.lastChild.remove();
  parts.forEach((part, index) => {
    let node = body.children[index];
    if (!node || node.dataset.kind !== part.kind) {
      const fresh = make("div", `v6-part v6-${part.kind}-part`, { "data-kind": part.kind });
      if (node) node.replaceWith(fresh);
      else body.append(fresh);
      node = fresh;
    }
    DRAWINGS[part.kind](node, part, send);
  });
  if (!hadFocus || body.contains(document.activeElement)) return;
  body.closest(".v6-panel").querySelector("table[role=grid]").focus({ preventScroll: true });
}
