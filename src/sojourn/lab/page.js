/* Keeps the panel of nodes up to date. The page works without it. */
const rows = document.querySelectorAll("[data-node]");
const hosts = document.querySelector(".held");

async function look() {
  let nodes;
  try {
    nodes = await (await fetch("/_lab/nodes")).json();
  } catch {
    return; /* the demo has ended, or is about to answer again */
  }
  const found = new Map(nodes.map((node) => [node.name, node]));
  for (const row of rows) show(row, found.get(row.dataset.node));
}

function show(row, node) {
  if (!node) return;
  row.dataset.state = node.state;
  row.querySelector(".state").textContent = node.state;
  row.querySelector(".pid").textContent = node.state === "down" ? "" : "pid " + node.pid;
  row.querySelector(".kill").disabled = node.state === "down";
  row.toggleAttribute("data-cut", node.cut);
}

/* What each host has of this visitor's session in its own store. */
async function compare() {
  let copies;
  try {
    copies = await (await fetch("/_lab/copies")).json();
  } catch {
    return;
  }
  for (const copy of copies) {
    const held = document.querySelector(`[data-node="${copy.name}"] .held`);
    if (held) held.textContent = copy.cart === null ? "?" : copy.cart;
  }
}

if (rows.length) {
  look();
  setInterval(look, 1000);
}
if (hosts) {
  compare();
  setInterval(compare, 1000);
}
