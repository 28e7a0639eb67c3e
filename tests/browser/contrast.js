// Returns the texts of a panel that differ too little from their ground, each with the ratio: WCAG 2.1, 1.4.3. What
// cannot be pressed is exempt.
(panel) => {
  const dot = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    dot.clearRect(0, 0, 1, 1); // the browser reads it: what a cell flashes in is written as oklab
    dot.fillStyle = colour;
    dot.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = dot.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (below, above) => below.map((part, at) => (at < 3 ? above[3] * above[at] + (1 - above[3]) * part : 1));
  const grounds = (node) => (node ? [...grounds(node.parentElement), parse(getComputedStyle(node).backgroundColor)] : []);
  const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, share, at) => sum + share * linear(colour[at] / 255), 0);
  const told = [];
  for (const node of panel.querySelectorAll("*")) {
    const says = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent.trim());
    if (!says || node.closest(":disabled, [aria-disabled=true]") || !node.checkVisibility()) continue;
    const ground = grounds(node).reduce(over, [255, 255, 255, 1]);
    const lights = [ground, over(ground, parse(getComputedStyle(node).color))].map(light);
    const ratio = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    if (ratio < 4.5) told.push([ratio, `${node.className || node.tagName}: ${node.textContent}`]);
  }
  return told;
};
