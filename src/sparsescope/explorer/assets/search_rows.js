// The search of an exported folder: over the rows of its dictionaries, in the browser. Texts of a corpus are only
// ever set as text.
(() => {
  "use strict";
  const place = document.getElementById("rows");
  if (!place) return;
  const { dictionaries } = JSON.parse(place.textContent);
  const [LATENT, DENSITY, , , SCORE, F1, EFFECT, EXPLANATION, LABEL, TOKENS] = Array(10).keys();
  const MOST = 48;
  const form = document.getElementById("asking");
  const state = document.getElementById("searching");
  const list = document.getElementById("found");
  const asked = new URLSearchParams(location.search);
  const given = asked.get("q") ?? "";

  for (const field of ["q", "dictionary"]) {
    if (form.elements[field] && asked.has(field)) form.elements[field].value = asked.get(field);
  }

  // Control characters and marks that turn the writing, made visible.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]/g;
  const visible = (text) => text.replace(HIDDEN, (found) => `⟨U+${found.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const spaced = (text) => visible(text.slice(0, 60).replace(/\n/g, "⏎").replace(/\t/g, "→")).replace(/^ +| +$/g, (gap) => "·".repeat(gap.length)) + (text.length > 60 ? "…" : "");
  // As report/words.py: about so many significant digits, at most four decimals.
  function digits(value, most) {
    if (value === null) return "–";
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-4) return value > 0 ? "<0.0001" : ">−0.0001";
    const whole = size >= 1 ? String(Math.trunc(size)).length : 0;
    const decimals = size >= 1000 ? 0 : Math.max(0, Math.min(4, most - whole));
    const text = size.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
    return value > 0 ? text : `−${text}`;
  }
  const percent = (share) => { const points = 100 * share; return `${points >= 10 || points === 0 ? points.toFixed(0) : Number(points.toPrecision(2))}%`; };

  function element(tag, name, ...children) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    made.append(...children);
    return made;
  }
  const token = (text) => element("bdi", "token", spaced(text));

  function joined(parts) {
    return parts.flatMap((part, at) => (at ? [at === parts.length - 1 ? " and " : ", ", ...part] : part));
  }

  function load(dictionary) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = dictionary.rows;
      script.onload = () => resolve(window.sparsescope.rows[dictionary.slug]);
      script.onerror = () => reject(new Error(dictionary.rows));
      document.head.append(script);
    });
  }

  // As explorer/pages/search.py: white space as pages write it; around a token it is no part of it.
  const meant = given.replace(/⏎|\\n/g, "\n").replace(/[␣·]/g, " ").replace(/\\t/g, "\t");
  const wanted = meant.trim() || meant;
  const words = meant.toLowerCase().split(/\s+/).filter(Boolean);
  const core = (text) => text.trim() || text;

  function search(rows, dictionary, spelling) {
    const onToken = [];
    const holding = [];
    for (const row of rows) {
      const share = row[TOKENS].reduce((sum, [text, part]) => sum + (core(text) === spelling ? part : 0), 0);
      if (share > 0) {
        onToken.push({ dictionary, row, share });
      } else if (words.length) {
        const text = [row[EXPLANATION] ?? "", row[LABEL] ?? "", ...row[TOKENS].map(([each]) => each)].join("\n").toLowerCase();
        if (words.every((word) => text.includes(word))) holding.push({ dictionary, row, share: null });
      }
    }
    return { onToken, holding };
  }

  function card({ dictionary, row, share }) {
    const address = dictionary.latent.replace(/0\.html$/, `${row[LATENT]}.html`);
    const title = element("a", "", `Latent ${row[LATENT]}`);
    title.href = address;
    const home = element("a", "home", element("bdi", "", spaced(dictionary.name)));
    home.href = dictionary.home;
    const head = element("h3", "", title, element("small", "", "of ", home));
    if (share !== null) head.append(element("span", "found", percent(share)));
    const story = element("p", "story");
    if (row[DENSITY] === 0) {
      story.append("Dead: never active on held-out text.");
    } else {
      const named = [];
      let sum = 0;
      for (const [text, part] of row[TOKENS].slice(0, 3)) {
        if (sum >= 0.8) break;
        named.push([token(text), " ", element("small", "", percent(part))]);
        sum += part;
      }
      story.append("Fires on ", ...(named.length ? joined(named) : [`${percent(row[DENSITY])} of tokens`]), ".");
    }
    const said = row[EXPLANATION] === null ? element("span", "quiet", "not explained") : element("q", "", visible(row[EXPLANATION]));
    const chips = row[TOKENS].slice(0, 6).map(([text, part]) => element("span", "chip", token(text), element("small", "", percent(part))));
    const numbers = element("dl", "numbers");
    const facts = [["active on", percent(row[DENSITY])], ["score", digits(row[SCORE], 2)], ["effect", row[EFFECT] === null ? "–" : `${digits(row[EFFECT], 3)} nats`]];
    if (row[LABEL] !== null && row[F1] >= 0.05) facts.push(["label", `${visible(row[LABEL])} F1 ${digits(row[F1], 2)}`]);
    for (const [name, value] of facts) numbers.append(element("div", "", element("dt", "", name), element("dd", "", value)));
    const made = element("article", "card brief", head, story, element("p", "explained", element("bdi", "", said)), element("span", "tokens", ...chips), numbers);
    made.dataset.item = "";
    return made;
  }

  function group(heading, found) {
    const part = element("section", "", element("h2", "", ...heading, " ", element("small", "", found.length > MOST ? `${MOST} of ${found.length}` : String(found.length))));
    part.append(element("div", "briefs", ...found.slice(0, MOST).map(card)));
    return part;
  }

  async function run() {
    if (!given) return;
    state.textContent = "Searching…";
    const chosen = dictionaries.filter((each) => !asked.get("dictionary") || each.slug === asked.get("dictionary"));
    const all = [];
    for (const dictionary of chosen) all.push([dictionary, await load(dictionary)]);
    const forms = [...new Set([wanted, wanted.toLowerCase(), wanted.charAt(0).toUpperCase() + wanted.slice(1).toLowerCase(), wanted.toUpperCase()])];
    let onToken = [];
    let holding = [];
    for (const spelling of forms) {
      const found = all.map(([dictionary, rows]) => search(rows, dictionary, spelling));
      // Autoencoders first, then baselines, then the dictionaries of controls.
      onToken = found.flatMap((each) => each.onToken).sort((a, b) => a.dictionary.rank - b.dictionary.rank || b.share - a.share);
      holding = found.flatMap((each) => each.holding);
      if (onToken.length) break;
    }
    list.classList.remove("briefs");
    list.replaceChildren();
    if (onToken.length) list.append(group(["Fire on this token ", token(wanted)], onToken));
    if (holding.length) list.append(group([onToken.length ? "Also hold these words" : "Hold these words"], holding));
    state.textContent = onToken.length || holding.length ? "" : "Nothing was found: no latent fires mostly on it, and no explanation, label or token holds it.";
    for (const start of document.querySelectorAll(".start")) start.hidden = Boolean(onToken.length || holding.length);
  }

  run().catch((error) => { state.textContent = `The rows of a dictionary could not be read: ${error.message}. Copy the whole folder.`; });
})();
