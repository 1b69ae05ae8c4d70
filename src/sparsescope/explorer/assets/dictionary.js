// A dictionary page that has no server behind it: sorts, filters and pages its latents by what the address says,
// with the words and numbers that a server would have written. All text is set as text, never as HTML.
(() => {
  "use strict";
  const section = document.getElementById("latents");
  const rows = section && window.sparsescope?.rows?.[section.dataset.slug];
  if (!rows) return;
  const SIZE = 50;
  const LABELLED = Number(section.dataset.labelled); // below this F1 a label is chance
  const DENSE = 0.1;
  const COLUMN = { latent: 0, density: 1, maximum: 2, entropy: 3, score: 4, f1: 5, effect: 6 };
  const SHOWS = {
    all: () => true, active: (row) => row[1] > 0, dead: (row) => row[1] === 0, dense: (row) => row[1] > DENSE,
    explained: (row) => row[7] !== null,
  };
  const NUMBERS = ["density", "maximum", "entropy", "score", "f1", "effect", "latent"];
  const TEXTS = ["token", "label", "words", "dictionary", "method", "site"];

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
    const short = size >= 1000 ? fixed(size, 0).replace(/\B(?=(\d{3})+$)/g, ",") : fixed(size, Math.max(0, Math.min(4, 3 - whole)));
    const written = Number(short) === 0 ? fixed(size, 4) : short;
    return value > 0 ? written : `−${written}`;
  }
  function percent(share) {
    const points = 100 * share;
    if (points > 0 && points < 0.001) return "<0.001%";
    if (points >= 99.5 && points < 100) return points < 99.995 ? `${Number(fixed(points, 2))}%` : ">99.99%";
    if (points >= 10 || points === 0) return `${fixed(points, 0)}%`;
    const power = Math.floor(Math.log10(Number(points.toPrecision(2))));
    return `${Number(fixed(points, 1 - power))}%`;
  }

  // The filter, read as features/searching/rules.py reads it: conditions, and words for what is none.
  const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?$/;
  const unquoted = (value) => (value.length > 1 && value.startsWith('"') && value.endsWith('"')
    ? value.slice(1, -1).replace(/\\(.)/gs, (_, escaped) => ({ n: "\n", t: "\t" })[escaped] ?? escaped) : value);
  function nearest(name) {
    const alike = (known) => {
      let last = new Array(known.length + 1).fill(0);
      for (const letter of name) {
        const next = [0];
        for (let at = 0; at < known.length; at++) next.push(letter === known[at] ? last[at] + 1 : Math.max(last[at + 1], next[at]));
        last = next;
      }
      return (2 * last.at(-1)) / (name.length + known.length);
    };
    const [best] = [...TEXTS, ...NUMBERS].sort((a, b) => alike(b) - alike(a));
    return alike(best) >= 0.6 ? best : null;
  }
  function read(given) {
    const terms = [];
    const others = [];
    const TERM = /([A-Za-z0-9_]*)(:|<=|>=|<|>|=)("(?:[^"\\]|\\.)*"|[^\s"]\S*|)(?=\s|$)/sy;
    const WORD = /"(?:[^"\\]|\\.)*"(?=\s|$)|\S+/sy;
    for (let place = given.search(/\S/); place >= 0 && place < given.length; place += given.slice(place).match(/^\s*/)[0].length) {
      TERM.lastIndex = WORD.lastIndex = place;
      const found = TERM.exec(given);
      const [key, operator, value] = found ? [found[1].toLowerCase(), found[2], found[3]] : [];
      const known = TEXTS.includes(key) || NUMBERS.includes(key);
      if (found && (known || (key && (nearest(key) || (!":=".includes(operator) && NUMBER.test(value)))))) {
        const refuse = (reason) => { throw new Error(`the condition '${found[0]}' is not understood: ${reason}.`); };
        if (!known) {
          const close = nearest(key);
          throw new Error(`unknown field '${key}' in '${found[0]}'.${close ? ` Did you mean '${close}'?` : ""} Known: ${NUMBERS.slice(0, -1).join(", ")}, latent with < <= > >= or =, and ${TEXTS.map((name) => `${name}:`).join(", ")}`);
        }
        if (NUMBERS.includes(key)) {
          if (operator === ":") refuse(`${key} is a number: it is compared`);
          if (!NUMBER.test(value)) refuse(`'${value}' is no number`);
          terms.push([key, operator, Number(value)]);
        } else {
          if (operator !== ":") refuse(`${key} takes a colon`);
          if (!unquoted(value)) refuse("nothing follows the colon");
          if (!["token", "label", "words"].includes(key)) throw new Error(`${key}: tells dictionaries apart, and this table is of one: search for it.`);
          if (key === "label" && !words(value).length) throw new Error(`label:${value} has no letter or digit: name a word of the label.`);
          terms.push([key, operator, unquoted(value)]);
        }
        place = TERM.lastIndex;
      } else {
        others.push(unquoted(WORD.exec(given)[0]));
        place = WORD.lastIndex;
      }
    }
    if (terms.length > 20) throw new Error(`the rule has ${terms.length} conditions: expected at most 20.`);
    return { terms, others: others.join(" ") };
  }

  // Words as the search index of the database takes them: letters and digits, without case, accents and endings.
  const words = (given) => given.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase().match(/[\p{L}\p{N}\p{Co}]+/gu) ?? [];
  const parted = (word) => word.match(/^(.*?)(ing|ed|es|s|e)?$/su);
  const stem = (word) => (parted(word)[1].length >= 3 ? parted(word)[1] : word);
  const begins = (word) => /\p{L}$/u.test(word) && parted(word)[1].length >= (parted(word)[2] ? 4 : 3);
  const alike = (word, wanted) => stem(word) === stem(wanted);
  function contains(part, phrase) {
    const last = phrase.at(-1);
    const fits = (word, at) => alike(word, phrase[at]) || (at === phrase.length - 1 && begins(last) && word.startsWith(stem(last)));
    return part.some((_, start) => phrase.every((_, at) => start + at < part.length && fits(part[start + at], at)));
  }
  // Which rows hold the words of a text in some of their parts; what has no word in it is a token.
  function holding(given, partsOf) {
    const looked = given.split(/\s+/).map(words).filter((each) => each.length).slice(0, 32);
    if (!looked.length) return (row) => !given || row[9].some(([each]) => each === given);
    return (row) => {
      const parts = partsOf(row).map(words);
      return looked.every((phrase) => parts.some((part) => contains(part, phrase)));
    };
  }
  // Tokens are written as pages show them; white space around one is no part of it, unless there is nothing else.
  const core = (token) => token.replace(/^[·⏎␍→]+|[·⏎␍→]+$/g, "") || token;
  const shown = (token) => token.replaceAll("\n", "⏎").replaceAll("\r", "␍").replaceAll("\t", "→");
  function responding(given) {
    const wanted = shown(given.trim() || given.replaceAll(" ", "·"));
    const spelled = rows.some((row) => row[9].some(([each]) => core(each) === wanted));
    const pattern = new RegExp(`^${wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".")}$`, "su");
    const fits = spelled ? (each) => each === wanted : (each) => pattern.test(each);
    return (row) => row[9].some(([each]) => fits(core(each)));
  }
  const COMPARE = { "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
  function matcher() {
    const all = (row) => [row[7] ?? "", row[8] ?? "", row[9].map(([each]) => each).join(" ")];
    const { terms, others } = read(text);
    const holds = terms.map(([key, operator, value]) => {
      if (key === "token") return responding(value);
      if (key === "label") return holding(value, (row) => [row[5] >= LABELLED ? row[8] ?? "" : ""]);
      if (key === "words") return holding(value, all);
      return (row) => row[COLUMN[key]] !== null && COMPARE[operator](row[COLUMN[key]], value);
    });
    holds.push(SHOWS[show], holding(others, all));
    return (row) => holds.every((each) => each(row));
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
    const labelled = label === null || f1 === null || f1 < LABELLED ? ["–"] : [made("bdi", "", label), " ", made("small", "", `F1 ${number(f1)}`)];
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

  let found = [];
  try {
    found = sorted(rows.filter(matcher()));
  } catch (error) {
    const nothing = section.querySelector(".nothing b");
    if (nothing) nothing.textContent = error.message;
  }
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
