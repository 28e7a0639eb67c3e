// A panel: title line, parts, grid, buttons, error strip. It draws what the kernel says, and answers with messages.

const SIGN = 10_000; // ms between two signs that a view is still seen
const WAIT = 700; // ms without an answer after which a cell is likely to be running

function render({ model, el }) {
  const view = crypto.getRandomValues(new Uint32Array(2)).join("-");
  let number = 0;
  let waiting = 0;

  function post(message) {
    try {
      model.send({ ...message, view, number });
    } catch {
      // The kernel has ended, so there is nobody to tell; what is on the page must not look as if it were live.
      panel.dataset.state = "closed";
      write(dot.lastChild, "no kernel");
    }
  }

  /** Tell the kernel what was done here. It says which message it has heard; if it does not, the page says so. */
  function send(what, more = {}) {
    number += 1;
    post({ do: what, ...more });
    if (!waiting && panel.dataset.state !== "closed") waiting = setTimeout(() => (late.hidden = false), WAIT);
    return number;
  }

  const title = make("b");
  const source = make("span", "v6-source");
  const late = make("span", "v6-late", { role: "status", hidden: "" }, "waits for the running cell");
  const copy = make("button", "v6-quiet", { type: "button", title: "Copy this view as Python", onclick: copyCode }, "copy as code");
  const dot = make("button", "v6-quiet v6-dot", { type: "button" }, make("i"), make("span"));
  const head = make("div", "v6-head", {}, title, source, late, copy, dot);
  const strip = make("details", "v6-strip", { role: "alert", hidden: "" }, make("summary"), make("pre"));
  const body = make("div", "v6-parts");
  const buttons = make("div", "v6-buttons", { role: "toolbar" });
  const grid = makeGrid(`v6-${view}`, send);
  const top = make("div", "v6-top", {}, body, grid.filter);
  const foot = make("div", "v6-foot", {}, buttons, grid.count);
  const below = make("div", "v6-below");
  const back = make("button", "v6-back", { type: "button", onclick: () => send("now") }, "back to live");
  const past = make("div", "v6-past", { role: "status", hidden: "" }, make("span"), back);
  const panel = make("section", "v6-panel", {}, head, past, strip, top, grid.scroller, below, foot);
  panel.setAttribute(OWN_KEYS, "true"); // for what else of it may get the focus

  function drawHead() {
    const { name, title: words, source: from, state, past: when } = model.get("head");
    past.hidden = !when;
    write(past.firstChild, when);
    panel.dataset.panel = name;
    panel.dataset.state = state;
    panel.setAttribute("aria-label", `${words} panel`);
    write(title, words);
    write(source, from);
    write(dot.lastChild, state);
    dot.title = { live: "Pause", paused: "Follow again", past: "Back to live", closed: "Run the cell again to open it" }[state];
    dot.disabled = state === "closed";
    dot.onclick = () => (state === "past" ? send("now") : send("live", { on: state !== "live" }));
  }

  function drawTrouble() {
    const { line, trace } = model.get("trouble");
    strip.hidden = !line;
    strip.classList.toggle("v6-plain", !trace);
    write(strip.children[0], line ?? "");
    write(strip.children[1], trace ?? "");
  }

  // Anywhere in the panel, except where keys are typed. Esc first takes a question back, and what it was about stays.
  panel.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.target.closest("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    const isAsked = event.key === "Escape" && buttons.querySelector(".v6-armed");
    if (isAsked) send("forget");
    if (isAsked || grid.press(event)) event.preventDefault();
  });

  // A key that is held down presses a button again and again, so it would confirm what it has asked.
  buttons.addEventListener("keydown", (event) => event.repeat && event.key === "Enter" && event.preventDefault());

  const pressed = new Map(); // from the name of a button to the number of the message that said so

  /** Press a button: it is shown at work from now on, and a double click is one click, or it would confirm itself. */
  function press(name, { detail }) {
    if (detail > 1) return;
    pressed.set(name, send("click", { action: name }));
    drawButtons();
  }

  function drawButtons() {
    const hadFocus = buttons.contains(document.activeElement);
    fillNamed(
      buttons,
      model.get("buttons"),
      () => make("button", "v6-button", { type: "button" }),
      (button, { name, label, hint, off, busy, armed }) => {
        const waits = (pressed.get(name) ?? 0) > heard();
        rest(button, off || waits);
        button.title = hint;
        button.classList.toggle("v6-armed", armed);
        button.setAttribute("aria-busy", busy || waits);
        button.onclick = (event) => !off && !waits && press(name, event);
        write(button, label);
      },
    );
    if (hadFocus && !buttons.contains(document.activeElement)) grid.focus();
  }

  function drawGrid() {
    const rows = model.get("grid");
    grid.filter.hidden = grid.scroller.hidden = grid.count.hidden = !rows.columns;
    if (rows.columns) grid.draw(rows, heard());
  }

  /** Return the number of the newest message that the kernel has taken from this view. */
  const heard = () => model.get("heard")[view] ?? 0;

  function hear() {
    drawButtons();
    if (heard() < number) return;
    clearTimeout(waiting);
    waiting = 0;
    late.hidden = true;
  }

  async function copyCode() {
    let said = "copied";
    try {
      await navigator.clipboard.writeText(model.get("head").code);
    } catch {
      said = "not copied: see panel.code"; // no browser lets a page copy that came over plain http from elsewhere
    }
    write(copy, said);
    setTimeout(() => write(copy, "copy as code"), 1200);
  }

  // --- whether anybody sees this view: only then does the kernel read and send ---

  let isInSight = false;
  let isSeen = false;
  function tell() {
    const sees = isInSight && !document.hidden;
    if (sees !== isSeen) post({ do: sees ? "see" : "leave" });
    isSeen = sees;
  }
  const sight = new IntersectionObserver((entries) => {
    isInSight = entries.at(-1).isIntersecting;
    tell();
  });
  const signs = setInterval(() => isSeen && post({ do: "see" }), SIGN);
  const leave = () => post({ do: "gone" });
  document.addEventListener("visibilitychange", tell);
  window.addEventListener("pagehide", leave);

  const regions = {
    head: drawHead,
    trouble: drawTrouble,
    parts: () => drawParts(body, model.get("parts"), send),
    below: () => drawParts(below, model.get("below"), send),
    grid: drawGrid,
    buttons: drawButtons,
    heard: hear,
  };
  for (const [region, draw] of Object.entries(regions)) {
    model.on(`change:${region}`, draw);
    draw();
  }
  el.append(panel);
  sight.observe(panel);

  return () => {
    leave();
    sight.disconnect();
    clearInterval(signs);
    clearTimeout(waiting);
    document.removeEventListener("visibilitychange", tell);
    window.removeEventListener("pagehide", leave);
    for (const [region, draw] of Object.entries(regions)) model.off(`change:${region}`, draw);
  };
}

export default { render };
