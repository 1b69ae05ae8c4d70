// Values over tokens, bars and scores; arrow keys from token to token; contexts that tell two latents apart.
(() => {
  "use strict";
  const MEANINGS = {
    corpus_rho: "Correlation of the activation with what the explanation alone predicts, on documents it was not made from. 1 is perfect, 0 is guessing.",
    context_gain: "How much of corpus ρ is beyond the best list of tokens.",
    bills_rho: "Correlation on five strongest and five random fragments. Blind to explanations that say too much.",
    detection: "In which fragments is it active? AUROC of the prediction; 0.5 is guessing.",
    fuzzing: "On which tokens is it active? AUROC of the prediction; 0.5 is guessing.",
    neighbours: "In which fragments is it active rather than the latent with the closest direction? AUROC; 0.5 is guessing.",
    intruder: "How often the one fragment without the latent is found among five. 0.2 is guessing.",
    measured: "The probability as it is less that without the latent, where the latent is strongest: +5 is from 10% to 15%, say. Mean over contexts.",
  };
  const STRIP = "Dot: this latent. Band: the mean of the dictionary, 95% interval. Red tick: explanations of other latents.";
  const WATCHED = "[data-v], [data-p], [data-score], .strip, [data-counts]";
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);

  function lines(element, event) {
    if (element.dataset.score) return ["", MEANINGS[element.dataset.score] || element.dataset.score];
    if (element.matches(".strip")) return ["", STRIP];
    if (element.dataset.counts) return ["", bin(element, event)];
    const { v, p } = element.dataset;
    const values = [v === undefined ? "not active" : `activation ${v}`];
    if (p !== undefined) values.push(`predicted ${p}`);
    else if (document.getElementById("view-real") && element.closest(".groups")) values.push("predicted 0");
    return [element.textContent.replace(/^ | $/g, "␣"), values.join(", ")];
  }

  function bin(figure, event) {
    const counts = figure.dataset.counts.split(" ");
    const box = figure.getBoundingClientRect();
    const place = Math.min(counts.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * counts.length)));
    const share = (end) => `${Math.round((100 * end) / counts.length)}%`;
    return `${Number(counts[place]).toLocaleString("en")} tokens from ${share(place)} to ${share(place + 1)} of the largest activation`;
  }

  function show(element, event) {
    const [token, text] = lines(element, event);
    const name = document.createElement("b");
    name.textContent = token;
    tip.replaceChildren(...(token ? [name] : []), text);
    tip.hidden = false;
    const box = element.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const room = document.documentElement.clientWidth - own.width - 8;
    const across = element.dataset.counts ? event.clientX - own.width / 2 : box.left;
    tip.style.left = `${Math.max(8, Math.min(room, across)) + scrollX}px`;
    tip.style.top = `${(box.top > own.height + 60 ? box.top - own.height - 6 : box.bottom + 7) + scrollY}px`;
  }

  const hide = () => { tip.hidden = true; };
  const watched = (event) => (event.target.closest ? event.target.closest(WATCHED) : null);
  document.addEventListener("pointermove", (event) => {
    const element = watched(event);
    if (element) show(element, event);
    else hide();
  });
  document.addEventListener("focusin", (event) => {
    const element = watched(event);
    if (element) show(element, event);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, { passive: true });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const line = step && event.target.closest(".ctxs li");
    const tokens = line ? [...line.querySelectorAll("b")] : [];
    if (!tokens.length) return undefined;
    event.preventDefault();
    const at = tokens.indexOf(event.target);
    const next = tokens[at < 0 ? (step > 0 ? 0 : tokens.length - 1) : Math.max(0, Math.min(tokens.length - 1, at + step))];
    next.tabIndex = -1;
    return next.focus();
  });

  async function fill(near) {
    const more = near.querySelector("a[href*='beside=']");
    if (!near.open || !more || near.getAttribute("aria-busy")) return;
    near.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(more.href);
      if (!answer.ok) return;
      const found = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(near.id);
      if (found) near.replaceChildren(near.querySelector("summary"), ...[...found.children].filter((child) => child.localName !== "summary"));
    } catch {
      more.textContent = "The server does not answer: start it again, then open this";
    } finally {
      near.removeAttribute("aria-busy");
    }
  }
  for (const near of document.querySelectorAll(".near")) near.addEventListener("toggle", () => fill(near));
})();
