/* Keeps the panel of nodes up to date. The page works without it. */
const rows = document.querySelectorAll("[data-node]");

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
}

if (rows.length) {
  look();
  setInterval(look, 1000);
}
