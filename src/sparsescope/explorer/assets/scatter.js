// Says below the scatter which latent is pointed at, with its numbers. Arrow keys go from point to point by density.
(() => {
  "use strict";
  for (const map of document.querySelectorAll(".map")) {
    const caption = map.querySelector(".caption");
    const points = [...map.querySelectorAll("svg.density a")];
    if (!caption || !points.length) continue;
    const resting = caption.textContent;
    const across = (point) => Number(point.firstElementChild.getAttribute("cx"));
    points.sort((a, b) => across(a) - across(b));
    points[0].setAttribute("tabindex", "0");
    const find = (event) => event.target.closest?.("svg.density a");
    const tell = (event) => {
      const point = find(event);
      const words = point ? point.querySelector("title").textContent : "";
      caption.textContent = words ? words[0].toUpperCase() + words.slice(1) : resting;
    };
    for (const kind of ["pointerover", "focusin", "focusout"]) {
      map.addEventListener(kind, kind === "focusout" ? () => { caption.textContent = resting; } : tell);
    }
    map.addEventListener("pointerleave", () => { caption.textContent = resting; });
    map.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const place = points.indexOf(find(event));
      const next = step && place >= 0 ? points[place + step] : undefined;
      if (!next) return;
      event.preventDefault();
      points[place].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus({ preventScroll: false });
    });
  }
})();
