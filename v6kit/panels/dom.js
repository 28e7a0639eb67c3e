// Elements by hand. What comes from the kernel becomes text or an attribute, never markup: nothing here sets innerHTML.

// What can have the focus says itself that its keys are its own. Said by the panel alone it comes too late: JupyterLab
// climbs from the focus, asks each element for this mark and then for its shortcuts, and many of those end in `:focus`.
// So a button would give away its arrows, and "d d", which deletes the cell. Source: `targetDistance` in
// packages/commands/src/index.ts of Lumino 2.
const OWN_KEYS = "data-lm-suppress-shortcuts";
const TAKES_KEYS = ["button", "input", "select", "summary"];

/** Make an element: its class, its attributes and properties, its children (elements or texts). */
function make(tag, name = "", attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node[key] = value;
    else node.setAttribute(key, value);
  }
  if (TAKES_KEYS.includes(tag) || "tabindex" in attributes) node.setAttribute(OWN_KEYS, "true");
  node.append(...children);
  return node;
}

/** Set a text only if it is another one, so that an unchanged page costs no layout. */
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Give a node as many children as there are items, keep those that are there (and their focus), and fill each. */
function fill(node, items, create, update) {
  while (node.children.length > items.length) node.lastChild.remove();
  while (node.children.length < items.length) node.append(create());
  items.forEach((item, index) => update(node.children[index], item, index));
}

/** As `fill`, for items with names: the child of one that stays is not touched, and with it the focus. */
function fillNamed(node, items, create, update) {
  const names = items.map(({ name }) => name);
  for (const child of [...node.children]) if (!names.includes(child.dataset.name)) child.remove();
  items.forEach((item, index) => {
    if (node.children[index]?.dataset.name !== item.name) {
      const child = create(item);
      child.dataset.name = item.name;
      node.insertBefore(child, node.children[index] ?? null);
    }
    update(node.children[index], item);
  });
}

/** Let a button rest, or work. One that has the focus keeps it, or the keys would be nowhere. */
function rest(button, off) {
  button.disabled = off && document.activeElement !== button;
  button.setAttribute("aria-disabled", off);
}
