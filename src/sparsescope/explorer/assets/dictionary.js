// A dictionary page that has no server behind it: sorts, filters and pages its latents by what the address says,
// with the words and numbers that a server would have written. All text is set as text, never as HTML.
(() => {
  "use strict";
  const section = document.getElementById("latents");
  const rows = section && window.sparsescope?.rows?.[section.dataset.slug];
  if (!rows) return;
  const SIZE = 50;
  const DENSE = 0.1;
  const COLUMN = { latent: 0, density: 1, maximum: 2, entropy: 3, score: 4, f1: 5, effect: 6 };
  const SHOWS = {
    all: () => true, active: (row) => row[1] > 0, dead: (row) => row[1] === 0, dense: (row) => row[1] > DENSE,
    explained: (row) => row[7] !== null,
  };
  const BOUND = /^(density|maximum|entropy|score|f1|effect)(<=|>=|<|>)([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)$/;

  // What the address asks for; what it cannot mean is as if it were not there.
  const asked = new URLSearchParams(location.search);
  const one = (name, known, otherwise) => (known.includes(asked.get(name)) ? asked.get(name) : otherwise);
  const text = (asked.get("q") ?? "").slice(0, 200).trim();
  const show = one("show", Object.keys(SHOWS), "all");
  const sort = one("sort", Object.keys(COLUMN), section.dataset.sort);
  const order = one("order", ["asc", "desc"], sort === "latent" ? "asc" : "desc");
  const heights = [...document.querySelectorAll("[data-height]")];
  const height = one("y", heights.map((each) => each.dataset.height), heights.find((each) => !each.hidden)?.dataset.height);

  // Numbers as report/words.py writes them, halves rounded to even.
  function fixed(value, digits) {
    const rounded = value.toFixed(digits);
    const rest = value.toFixed(Math.min(100, digits + 25)).slice(-25);
    if (!/^50*$/.test(rest)) return rounded;
    const down = value.toFixed(digits + 25).slice(0, -25).replace(/\.$/, "");
    return Number(down.at(-1)) % 2 === 0 ? down : rounded;
  }
  function number(value) {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-4) return value > 0 ? "<0.0001" : ">−0.0001";
    const whole = size >= 1 ? String(Math.floor(size)).length : 0;
    const written = size >= 1000 ? fixed(size, 0).replace(/\B(?=(\d{3})+$)/g, ",") : fixed(size, Math.max(0, Math.min(4, 3 - whole)));
    return value > 0 ? written : `−${written}`;
  }
  function percent(share) {
    const points = 100 * share;
    if (points >= 10 || points === 0) return `${fixed(points, 0)}%`;
    const power = Math.floor(Math.log10(Number(points.toPrecision(2))));
    if (power >= -4) return `${Number(fixed(points, 1 - power))}%`;
    const [digits, tens] = points.toExponential(1).split("e");
    return `${Number(digits)}e-${tens.slice(1).padStart(2, "0")}%`;
  }

  // Words as the search index of the database takes them: letters and digits, without case and accents.
  const words = (given) => given.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase().match(/[\p{L}\p{N}\p{Co}]+/gu) ?? [];
  function matcher() {
    const bounds = [];
    const phrases = [];
    for (const term of text.split(/\s+/).filter(Boolean)) {
      const bound = BOUND.exec(term);
      if (bound) bounds.push([COLUMN[bound[1]], bound[2], Number(bound[3])]);
      else phrases.push(term);
    }
    const within = (row) => bounds.every(([column, sign, value]) => row[column] !== null && (sign.startsWith("<")
      ? row[column] < value || (sign === "<=" && row[column] === value)
      : row[column] > value || (sign === ">=" && row[column] === value)));
    const looked = phrases.map(words).filter((each) => each.length).slice(0, 32);
    const token = phrases.join(" "); // what has no word in it is a token
    const holds = looked.length
      ? (row) => {
        const parts = [row[7] ?? "", row[8] ?? "", row[9].map(([each]) => each).join(" ")].map(words);
        return looked.every((phrase) => parts.some((part) => contains(part, phrase)));
      }
      : (row) => !token || row[9].some(([each]) => each === token);
    return (row) => SHOWS[show](row) && within(row) && holds(row);
  }
  function contains(part, phrase) {
    return part.some((_, start) => phrase.every((word, place) => part[start + place] === word));
  }
  function sorted(chosen) {
    const column = COLUMN[sort];
    const sign = order === "asc" ? 1 : -1;
    return chosen.sort((a, b) => {
      if (a[column] === null || b[column] === null) return (a[column] === null) - (b[column] === null) || a[0] - b[0];
      return sign * (a[column] - b[column]) || a[0] - b[0];
    });
  }

  // The table.
  function made(name, kind, ...inside) {
    const element = document.createElement(name);
    if (kind) element.className = kind;
    element.append(...inside);
    return element;
  }
  function cell(kind, name, ...inside) {
    const made_ = made("td", kind, ...inside);
    if (name) made_.dataset.name = name;
    return made_;
  }
  function line(row) {
    const [latent, density, , , score, f1, effect, explanation, label, tokens] = row;
    const link = made("a", "", String(latent));
    link.href = `latent/${latent}.html`;
    const head = made("th", "number", link);
    head.scope = "row";
    const said = explanation !== null ? made("bdi", "", explanation) : made("i", "", density === 0 ? "dead" : "not explained");
    const chips = tokens.slice(0, 5).map(([token, share]) => made("span", "chip", made("bdi", "token", token), made("small", "", percent(share))));
    const labelled = label === null ? ["–"] : [made("bdi", "", label), " ", made("small", "", `F1 ${number(f1)}`)];
    const whole = made("tr", "", head, cell("said", "", said), cell("number", "score", number(score)), cell("tokens", "", ...chips),
      cell("number", "density", percent(density)), cell("label", "label", ...labelled), cell("number", "effect", number(effect)));
    whole.dataset.item = "";
    return whole;
  }
  function address(changed) {
    const given = { q: text || null, show: show === "all" ? null : show, sort, order, y: height, ...changed };
    const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value !== null));
    return `?${query}#latents`;
  }

  const found = sorted(rows.filter(matcher()));
  const last = Math.max(1, Math.ceil(found.length / SIZE));
  const page = Math.min(last, Math.max(1, /^\d{1,8}$/.test(asked.get("page") ?? "") ? Number(asked.get("page")) : 1));
  const first = (page - 1) * SIZE;
  document.getElementById("rows").replaceChildren(...found.slice(first, first + SIZE).map(line));
  section.querySelector(".nothing").hidden = found.length > 0;

  for (const head of section.querySelectorAll("th[data-sort]")) {
    const here = head.dataset.sort === sort;
    const down = here ? order === "asc" : head.dataset.sort !== "latent";
    head.ariaSort = !here ? "none" : order === "asc" ? "ascending" : "descending";
    head.firstElementChild.href = address({ sort: head.dataset.sort, order: down ? "desc" : "asc" });
  }
  for (const tab of section.querySelectorAll("[data-show]")) {
    tab.href = address({ show: tab.dataset.show === "all" ? null : tab.dataset.show });
    if (tab.dataset.show === show) tab.setAttribute("aria-current", "true"); else tab.removeAttribute("aria-current");
  }
  for (const pager of section.querySelectorAll(".pager")) {
    const to = { first: 1, previous: page - 1, next: page + 1, last };
    pager.querySelector(".count").textContent = found.length
      ? `${(first + 1).toLocaleString("en")}–${Math.min(first + SIZE, found.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "none";
    [...pager.querySelectorAll(".button")].forEach((button, place) => {
      const target = Object.values(to)[place];
      const on = target >= 1 && target <= last && target !== page;
      const fresh = made(on ? "a" : "span", on ? "button small" : "button small off", button.textContent);
      if (on) fresh.href = address({ page: target === 1 ? null : target }); else fresh.ariaHidden = "true";
      button.replaceWith(fresh);
    });
  }
  const form = section.querySelector("form");
  form.elements.q.value = text;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.search = address({ q: form.elements.q.value.trim() || null }).replace(/#.*/, "");
  });
  for (const each of heights) each.hidden = each.dataset.height !== height;
  for (const link of document.querySelectorAll("a.height")) {
    const key = new URL(link.href).searchParams.get("y");
    link.href = address({ y: key, page: page === 1 ? null : page }).replace(/#.*/, "");
    if (key === height) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
})();
