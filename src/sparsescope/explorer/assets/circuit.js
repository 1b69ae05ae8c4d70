// The figure of a circuit: pointing at a node, or at its card, leaves only its own edges in sight.
(() => {
  "use strict";
  const figure = document.querySelector("svg.circuit");
  if (!figure) return;
  const nodes = new Map([...figure.querySelectorAll("a[data-node]")].map((link) => [link.dataset.node, link]));
  const edges = [...figure.querySelectorAll("path.edge")].map((path) => {
    const [ends] = path.querySelector("title").textContent.split(": ");
    const [source, target] = ends.split(" → ");
    return { path, source, target };
  });

  function show(name) {
    figure.classList.toggle("picking", name !== null);
    const near = new Set([name]);
    for (const { path, source, target } of edges) {
      const mine = source === name || target === name;
      path.classList.toggle("mine", mine);
      if (mine) near.add(source).add(target);
    }
    for (const [id, link] of nodes) link.classList.toggle("mine", near.has(id));
  }

  for (const item of [...nodes.values(), ...document.querySelectorAll(".node-card[data-node]")]) {
    for (const kind of ["pointerenter", "focusin"]) item.addEventListener(kind, () => show(item.dataset.node));
    for (const kind of ["pointerleave", "focusout"]) item.addEventListener(kind, () => show(null));
  }
})();
