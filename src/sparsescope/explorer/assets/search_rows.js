// The search of an exported folder: over the rows of its dictionaries, in the browser. Texts of a corpus are only
// ever set as text.
(() => {
  "use strict";
  const place = document.getElementById("rows");
  if (!place) return;
  const { dictionaries, names } = JSON.parse(place.textContent);
  const [LATENT, DENSITY, , , SCORE, F1, EFFECT, EXPLANATION, LABEL, TOKENS] = Array(10).keys();
  const MOST = 24;
  const LABELLED = 0.05; // as features/card.py: below this F1 a label is chance
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
    const rounded = (places) => size.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
    const text = Number(rounded(decimals)) === 0 ? rounded(4) : rounded(decimals);
    return value > 0 ? text : `−${text}`;
  }
  function percent(share) {
    const points = 100 * share;
    if (points > 0 && points < 0.001) return "<0.001%";
    if (points >= 99.5 && points < 100) return points < 99.995 ? `${Number(points.toFixed(2))}%` : ">99.99%";
    return `${points >= 10 || points === 0 ? points.toFixed(0) : Number(points.toPrecision(2))}%`;
  }

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
  // The rows have tokens as pages show them.
  const core = (token) => token.replace(/^[·⏎␍→]+|[·⏎␍→]+$/g, "") || token;
  const shown = (token) => (token.trim() || token.replaceAll(" ", "·")).replaceAll("\n", "⏎").replaceAll("\r", "␍").replaceAll("\t", "→");
  const RULE = /(?:^|\s)(?:(?:token|label|words|dictionary|method|site):|(?:density|maximum|entropy|score|f1|effect|latent)[<>=])/i;

  // As features/punctuation.py: the tokens that have this name.
  function named(text) {
    const said = text.toLowerCase().replaceAll("-", " ").split(/\s+/).filter(Boolean);
    const last = said.pop() ?? "";
    const singular = { parentheses: "parenthesis", ellipses: "ellipsis", quotations: "quotation mark" }[last] ?? last;
    for (const ending of [last, singular, last.replace(/s$/, ""), last.replace(/es$/, "")]) {
      const name = [...said, ending].join(" ");
      if (Object.hasOwn(names, name)) return names[name].map(shown);
    }
    return [];
  }

  // Words as the index of the database takes them: without case, accents and endings, and by their beginning.
  const cut = (text) => text.normalize("NFD").replace(/\p{Mn}/gu, "").toLowerCase().match(/[\p{L}\p{N}\p{Co}]+/gu) ?? [];
  const parted = (word) => word.match(/^(.*?)(ing|ed|es|s|e)?$/su);
  const stem = (word) => (parted(word)[1].length >= 3 ? parted(word)[1] : word);
  const looked = cut(meant).map((word) => ({ stem: stem(word), begins: /\p{L}$/u.test(word) && parted(word)[1].length >= (parted(word)[2] ? 4 : 3) }));
  const holds = (text) => {
    const found = cut(text);
    return looked.every((one) => found.some((word) => stem(word) === one.stem || (one.begins && word.startsWith(one.stem))));
  };
  // As features/affirming.py: an explanation without its negated parts.
  const QUOTED = String.raw`(?<!\w)'(?:[^'\\\n]|\\.){0,100}'|(?<!\w)"(?:[^"\\\n]|\\.){0,100}"`;
  const LITERAL = String.raw`${QUOTED}|\{(?:${QUOTED}|[^}'"]){0,100}\}`;
  const NEGATED = new RegExp(String.raw`(${LITERAL})|\b(?:not|no|without|never|except|excluding|unless|nor|neither|outside|\w+n't)\b(?:${LITERAL}|(?! (?:and|but) |[;,.()]).)*`, "gis");
  const affirmed = (text) => text.replace(NEGATED, (_, literal) => literal ?? "");

  // Where a row holds the words, the most telling place first: as `by_words` of features/holding.py. Null: nowhere.
  function placed(row) {
    const [said, label, tokens] = [row[EXPLANATION] ?? "", row[LABEL] ?? "", row[TOKENS].map(([text]) => text).join("\n")];
    if (row[F1] >= LABELLED && holds(label)) return [0, -row[F1]];
    if (holds(tokens)) return [1, -row[TOKENS].reduce((sum, [text, part]) => sum + (holds(text) ? part : 0), 0)];
    if (holds(`${affirmed(said)}\n${tokens}`)) return [2, 0];
    return holds(`${said}\n${label}\n${tokens}`) ? [3, 0] : null;
  }

  function search(rows, dictionary, tokens) {
    const found = rows.map((row) => ({ dictionary, row, share: row[TOKENS].reduce((sum, [text, part]) => sum + (tokens.includes(core(text)) ? part : 0), 0) }));
    return found.filter((each) => each.share > 0);
  }
  // Autoencoders first, then baselines, then the dictionaries of controls.
  const byShare = (a, b) => a.dictionary.rank - b.dictionary.rank || b.share - a.share;
  function holding(rows, dictionary) {
    return rows.map((row) => ({ dictionary, row, share: null, place: placed(row) })).filter((each) => each.place);
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
    if (row[LABEL] !== null && row[F1] >= LABELLED) facts.push(["label", `${visible(row[LABEL])} F1 ${digits(row[F1], 2)}`]);
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
    const forms = [...new Set([wanted, wanted.toLowerCase(), wanted.charAt(0).toUpperCase() + wanted.slice(1).toLowerCase(), wanted.toUpperCase()].map(shown))];
    const on = (tokens) => all.flatMap(([dictionary, rows]) => search(rows, dictionary, tokens)).sort(byShare);
    const called = named(given);
    const onName = called.length ? on(called) : [];
    const spelled = forms.find((form) => on([form]).length);
    const seen = new Set(onName.map((each) => each.row));
    const onToken = spelled === undefined || (called.length === 1 && called[0] === spelled) ? [] : on([spelled]).filter((each) => !seen.has(each.row));
    for (const each of onToken) seen.add(each.row);
    const also = looked.length ? all.flatMap(([dictionary, rows]) => holding(rows, dictionary)).filter((each) => !seen.has(each.row)) : [];
    also.sort((a, b) => a.dictionary.rank - b.dictionary.rank || a.place[0] - b.place[0] || a.place[1] - b.place[1]);
    list.classList.remove("briefs");
    list.replaceChildren();
    const listed = (tokens) => tokens.flatMap((text, at) => (at ? [" or ", token(text)] : [" ", token(text)]));
    if (onName.length) list.append(group(["Fire on", ...listed(called), ` (${spaced(given.trim())})`], onName));
    if (onToken.length) list.append(group(["Fire on ", token(spelled)], onToken));
    const any = onName.length + onToken.length > 0;
    if (also.length) list.append(group([any ? "Also hold these words" : "Hold these words"], also));
    state.textContent = any || also.length ? "" : RULE.test(given)
      ? "Rules need the explorer itself: a folder of files is searched by tokens and words."
      : "Nothing was found: no latent fires mostly on it, and no explanation, label or token holds it.";
    for (const start of document.querySelectorAll(".start")) start.hidden = any || also.length > 0;
  }

  run().catch((error) => { state.textContent = `The rows of a dictionary could not be read: ${error.message}. Copy the whole folder.`; });
})();
