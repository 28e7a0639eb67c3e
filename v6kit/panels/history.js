// The past of a table: where in it one looks, the bars of its versions, and the states of one item.

const BARS = 48; // px
const MODES = { "as of": "As of", diff: "Diff", item: "Item" };

Object.assign(DRAWINGS, {
  travel(node, part, send) {
    if (!node.firstChild) makeTravel(node, send);
    const { tables, modes, at, travel, all, columns } = node.controls;
    tables.hidden = part.tables.length < 2;
    fill(tables, part.tables, () => make("option"), (option, name) => {
      option.value = name;
      write(option, name);
    });
    tables.value = part.table;
    fill(
      modes,
      Object.entries(MODES),
      () => make("button", "v6-chip", { type: "button" }),
      (button, [mode, title]) => {
        button.setAttribute("aria-pressed", mode === part.mode);
        button.onclick = () => send("mode", { mode });
        write(button, title);
      },
    );
    if (document.activeElement !== at) at.value = part.at;
    at.dataset.at = part.at;
    for (const button of travel.children) {
      const { go } = button.dataset;
      rest(button, part.off || (part.isFirst && (go === "first" || go === "back")) || (part.isLast && (go === "on" || go === "last")));
      if (go !== "play") continue;
      write(button, part.playing ? "■ stop" : "▶ play");
      button.setAttribute("aria-label", part.playing ? "stop" : "play");
      button.setAttribute("aria-pressed", part.playing);
    }
    all.hidden = !part.many;
    write(all, part.all ? "one by one" : "all versions");
    fill(
      columns.lastChild,
      part.columns,
      () => make("label", "", {}, make("input", "", { type: "checkbox" }), make("span")),
      (label, [name, shown]) => {
        label.firstChild.checked = shown;
        label.firstChild.onchange = () => send("column", { name });
        write(label.lastChild, name);
      },
    );
  },

  versions(node, part, send) {
    if (!node.firstChild) makeBars(node, send);
    const { bars, words } = node.controls;
    const totals = part.bars.map(([, , added, changed, removed]) => added + changed + removed);
    const top = Math.max(1, ...totals);
    fill(
      bars,
      part.bars,
      () => make("i", "", {}, make("b"), make("b"), make("b")),
      (bar, [first, last, added, changed, removed, lost, at], index) => {
        const scale = totals[index] ? (3 + (BARS - 3) * Math.sqrt(totals[index] / top)) / totals[index] : 0;
        [removed, changed, added].forEach((rows, at) => (bar.children[at].style.height = `${rows * scale}px`));
        const name = first === last ? `v${last}` : `v${first}–v${last}`;
        const made = at ? ` · ${new Date(at * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC` : "";
        const gone = lost ? ` · ${lost === 1 ? "cannot be read any more" : `${lost} cannot be read any more`}` : "";
        bar.title = `${name}${made} · +${added} ~${changed} −${removed}${gone}\nclick: look at it · shift-click: compare with it`;
        bar.dataset.version = last;
        bar.classList.toggle("v6-lost", lost > 0);
        bar.classList.toggle("v6-new", index === part.new);
        bar.classList.toggle("v6-old", part.range && index === part.old);
        bar.classList.toggle("v6-out", part.range && part.old !== null && (index <= part.old || index > part.new));
      },
    );
    bars.setAttribute("aria-valuetext", part.text);
    bars.setAttribute("aria-valuemin", part.first);
    bars.setAttribute("aria-valuemax", part.last);
    bars.setAttribute("aria-valuenow", part.version);
    write(words, part.text);
  },

  states(node, part, send) {
    fill(
      node,
      part.states,
      () => make("button", "v6-state", { type: "button" }),
      (state, { text, hint, version, on, tone }) => {
        write(state, text);
        state.title = hint;
        state.dataset.tone = tone;
        state.setAttribute("aria-pressed", on);
        state.onclick = () => send("go", { version, compare: false });
      },
    );
  },
});

function makeTravel(node, send) {
  const tables = make("select", "", { "aria-label": "table", onchange: () => send("table", { name: tables.value }) });
  const modes = make("div", "v6-modes", { role: "group", "aria-label": "what to look at" });
  const at = make("input", "v6-at", { type: "text", "aria-label": "as of", spellcheck: "false", placeholder: "e.g. 2026-11-22 14:21 UTC" });
  at.addEventListener("keydown", (event) => {
    if (event.key === "Enter") send("as_of", { text: at.value });
    else if (event.key === "Escape") at.value = at.dataset.at;
    else return;
    node.closest(".v6-panel").querySelector(".v6-versions").focus({ preventScroll: true }); // arrows go on from there
    event.preventDefault();
  });
  const button = (go, text, title) => make("button", "v6-button", { type: "button", title, "aria-label": title, "data-go": go, onclick: ({ target }) => target.ariaDisabled !== "true" && send("travel", { go }) }, text);
  const travel = make(
    "div",
    "v6-travel",
    { role: "group", "aria-label": "versions" },
    button("first", "|◀", "first version"),
    button("back", "◀", "version before  ←"),
    button("on", "▶", "next version  →"),
    button("last", "▶|", "newest version"),
    button("play", "▶ play", "play"),
  );
  const all = make("button", "v6-quiet", { type: "button", onclick: () => send("zoom") });
  const columns = make("details", "v6-columns", {}, make("summary", "", {}, "columns"), make("div"));
  const label = make("label", "v6-words", {}, "as of ", at);
  node.append(tables, modes, label, travel, all, columns);
  node.controls = { tables, modes, at, travel, all, columns };
}

function makeBars(node, send) {
  const bars = make("div", "v6-versions", { role: "slider", tabindex: 0, "aria-label": "version" });
  const words = make("span", "v6-words", { role: "status" });
  bars.addEventListener("click", (event) => {
    const bar = event.target.closest("[data-version]");
    if (bar) send("go", { version: Number(bar.dataset.version), compare: event.shiftKey });
  });
  // Anywhere in the panel, except where arrows move a text's cursor or choose a table.
  node.closest(".v6-panel").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.closest("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    send("step", { by, old: event.shiftKey });
    event.preventDefault();
  });
  node.append(bars, words);
  node.controls = { bars, words };
}
