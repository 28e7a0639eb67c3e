// The dashboard's top: counts in groups, tabs, and the field for the instant that all of them show.

const TAB_STEPS = { ArrowRight: 1, ArrowLeft: -1 };

Object.assign(DRAWINGS, {
  figures(node, part) {
    fill(node, part.groups, () => make("span", "v6-group", {}, make("span"), make("span")), (group, { name, figures }) => {
      write(group.firstChild, name);
      fill(
        group.lastChild,
        figures,
        () => make("span", "v6-figure", {}, make("i"), make("b"), make("span")),
        (figure, { name: word, count, tone }) => {
          figure.dataset.tone = tone;
          write(figure.children[1], count);
          write(figure.children[2], word);
        },
      );
    });
  },

  tabs(node, part, send) {
    if (!node.firstChild) {
      const field = make("input", "", {
        type: "text",
        "aria-label": "as of, UTC",
        placeholder: "now",
        spellcheck: "false",
        title: "Look back: a time of today, or a date and a time, in UTC. Empty for now",
      });
      // A listener, and not `onkeydown`, to which a false result means that the key types nothing.
      field.addEventListener("keydown", ({ key }) => {
        if (key === "Enter") send("as_of", { text: field.value });
        else if (key === "Escape") field.value = field.dataset.at;
      });
      const bar = make("div", "v6-tabbar", { role: "tablist" });
      bar.onkeydown = (event) => {
        const tabs = [...bar.children];
        const at = tabs.indexOf(document.activeElement);
        const ends = { Home: 0, End: tabs.length - 1 };
        const next = ends[event.key] ?? (event.key in TAB_STEPS ? (at + TAB_STEPS[event.key] + tabs.length) % tabs.length : at);
        if (at < 0 || next === at) return;
        tabs[next].focus();
        tabs[next].click();
        event.preventDefault();
      };
      node.append(bar, make("label", "v6-when", {}, make("span", "", {}, "as of (UTC)"), field));
    }
    const [bar, when] = node.children;
    fill(bar, part.tabs, () => make("button", "v6-tab", { type: "button", role: "tab" }), (tab, [name, title]) => {
      const isChosen = name === part.chosen;
      tab.setAttribute("aria-selected", isChosen);
      tab.tabIndex = isChosen ? 0 : -1; // one stop for the Tab key; arrows go on from there
      tab.onclick = () => send("tab", { name });
      write(tab, title);
    });
    const field = when.lastChild;
    if (document.activeElement !== field || field.dataset.at !== part.as_of) field.value = part.as_of;
    field.dataset.at = part.as_of;
  },
});
