// Tells what a word means while it is hovered over or focused: at once, over the page, without moving anything.
(() => {
  "use strict";
  const box = document.createElement("div");
  box.id = "meaning";
  box.className = "meaning";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);
  for (const term of document.querySelectorAll(".term[title]")) {
    term.dataset.meaning = term.title;
    term.removeAttribute("title");
  }
  let shown = null;
  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    box.hidden = true;
  }
  function show(term) {
    hide();
    shown = term;
    box.textContent = term.dataset.meaning;
    box.hidden = false;
    term.setAttribute("aria-describedby", box.id);
    const at = term.getBoundingClientRect();
    const below = at.bottom + 6 + box.offsetHeight < window.innerHeight;
    box.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${below ? at.bottom + 6 : at.top - 6 - box.offsetHeight}px`;
  }
  const find = (event) => event.target.closest?.("[data-meaning]");
  for (const kind of ["pointerover", "focusin"]) {
    document.addEventListener(kind, (event) => { const term = find(event); if (term) show(term); });
  }
  document.addEventListener("pointerout", (event) => { if (find(event) && document.activeElement !== shown) hide(); });
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  window.addEventListener("scroll", hide, { passive: true, capture: true });
})();
