// Fields to fill in, with a preview. A field sends what is in it when it is left or Enter is pressed.

/** Make a field: what it is called, and the element in which it is filled in. */
function makeField({ name, choices, hint }, send) {
  const control = make(choices ? "select" : "input", "", { "aria-label": name, spellcheck: "false" });
  control.dataset.field = name;
  control.told = null; // Enter and leaving the field both say it; once is enough
  control.tell = () => {
    if (control.value === control.told) return false;
    send("form", { name, value: (control.told = control.value) });
    return true;
  };
  if (choices) control.onchange = control.tell;
  else {
    control.onfocus = () => (control.told = control.value);
    control.onblur = control.tell;
    control.placeholder = hint;
  }
  return make("label", "", {}, make("span"), control);
}

/** Put a field's choices and value into its element, unless somebody is filling it in. */
function drawField(control, { choices, value }) {
  const isUsed = document.activeElement === control;
  if (choices) {
    const shown = choices.some(([each]) => each === value) ? choices : [["", "–"], ...choices];
    const text = JSON.stringify(shown);
    if (control.dataset.choices !== text) {
      const chosen = control.value;
      control.dataset.choices = text;
      control.replaceChildren(...shown.map(([each, words]) => make("option", "", { value: each }, words)));
      control.value = chosen;
    }
    // The kernel takes a choice over when it has what belongs to it; until then the choice is not taken back.
    if (isUsed && value === control.dataset.was && control.selectedIndex >= 0) return;
    control.dataset.was = control.told = value;
  } else if (isUsed) return;
  if (control.value !== value) control.value = value;
}

/** Enter takes a field over, and where there is nothing to take over, registers; Esc leaves the form. */
function onFormKey(event, isComplete, send) {
  const { key, target } = event;
  if (key === "Escape") {
    target.told = target.value; // what is in it no longer matters
    send("click", { action: "discard" });
  } else if (key !== "Enter") return;
  else if (!target.tell() && isComplete && !event.repeat) send("click", { action: "register" });
  event.preventDefault();
}

Object.assign(DRAWINGS, {
  form(node, part, send) {
    let toFields = false;
    if (!node.firstChild) {
      node.append(make("div", "v6-fields"), make("span", "v6-words", { role: "status" }), make("table"), make("pre"));
      node.children[2].append(make("thead", "", {}, make("tr")), make("tbody"));
      node.firstChild.onkeydown = (event) => onFormKey(event, node.isComplete, send);
      toFields = node.closest(".v6-panel").contains(document.activeElement); // who opened it by a key or a click here
    }
    const [fields, lacks, table, code] = node.children;
    fillNamed(
      fields,
      part.fields,
      (field) => makeField(field, send),
      ({ children: [label, control] }, field) => {
        write(label, field.label);
        drawField(control, field);
      },
    );
    node.isComplete = Boolean(part.code);
    write(lacks, part.text || "Enter registers it · Esc closes the form");
    table.hidden = code.hidden = !part.code;
    const isNumber = (column) => column === 0;
    fillHeads(table.firstChild.firstChild, part.heads, isNumber);
    fillRows(table.lastChild, part.rows, isNumber);
    write(code, part.code);
    if (toFields) fields.querySelector("input").focus({ preventScroll: true });
  },
});
