// The prompt page: what was asked is in the address, so that links, the back button and reloading give it again.
(() => {
  "use strict";
  const live = window.sparsescopeLive;
  const byId = (id) => document.getElementById(id);
  const form = byId("ask");
  if (!form || !live) return;
  const { make, token, number, percent } = live;
  const [dictionary, text, where] = [byId("dictionary"), byId("text"), byId("where")];
  const [strip, list, results] = [byId("tokens"), byId("latents"), byId("results")];
  const loading = live.loading(byId("loading"));
  const SHOWN = 50;
  const KINDS = { ablate: "ablated", scale: "scaled by", set: "set to", add: "raised by" };
  let state = fresh();
  let turn = 0; // an answer that comes after the next question is left out

  function fresh() {
    return { dictionary: "", text: "", position: null, sort: "activation", where: "everywhere", edits: [],
      reading: null, change: null, effects: new Map(), open: null, all: false, buttons: [], editor: { key: "" } };
  }

  // ---- the address
  function fromAddress() {
    const query = new URLSearchParams(location.search);
    const edits = (query.get("edits") ?? "").split("~").filter(Boolean).map((each) => {
      const [latent, kind, value, position] = each.split(":");
      return { latent: Number(latent), kind, value: value === "" ? null : Number(value), position: position === "all" ? "all" : Number(position) };
    });
    return { ...fresh(), dictionary: query.get("dictionary") ?? dictionary.value, text: query.get("text") ?? "",
      position: /^\d+$/.test(query.get("position") ?? "") ? Number(query.get("position")) : null,
      sort: query.get("sort") || results.dataset.sort, where: query.get("where") || results.dataset.where, edits };
  }
  function address() {
    const query = new URLSearchParams({ dictionary: state.dictionary, text: state.text });
    if (state.position !== null) query.set("position", state.position);
    if (state.sort !== "activation") query.set("sort", state.sort);
    if (state.where !== "everywhere") query.set("where", state.where);
    if (state.edits.length) {
      query.set("edits", state.edits.map((e) => [e.latent, e.kind, e.value ?? "", e.position].join(":")).join("~"));
    }
    return `${location.pathname}?${query}`;
  }
  const keep = () => history.replaceState(null, "", address());

  // ---- asking
  const asked = () => ({ dictionary: state.dictionary, text: state.text });

  async function working(work) {
    const mine = ++turn;
    results.setAttribute("aria-busy", "true");
    try {
      await work(() => mine === turn);
    } catch (error) {
      if (mine === turn) loading.fail(error);
    } finally {
      if (mine === turn) results.removeAttribute("aria-busy");
    }
  }

  const read = () => working(async (current) => {
    const told = await live.post("/api/read", asked(), loading.show);
    if (!current()) return;
    loading.say(`Read ${told.tokens.length} tokens in ${told.seconds.toFixed(2)} s.`);
    state.reading = told;
    for (const part of document.querySelectorAll("[data-answer]")) part.hidden = false;
    if (state.position === null || state.position >= told.tokens.length) state.position = told.tokens.length - 1;
    state.buttons = live.tokens(strip, told.tokens.map((each) => each.text), choose);
    await follow(current);
  });

  // What else the chosen token, sort and edits call for; then everything is drawn.
  async function follow(current) {
    keep();
    state.change = state.edits.length ? await live.post("/api/change", { ...asked(), edits: state.edits.map(sent) }, () => {}) : null;
    if (!current()) return;
    const wanted = effectKey();
    if (state.sort === "effect" && !state.effects.has(wanted)) {
      draw();
      const told = await live.post("/api/effects", { ...asked(), position: state.position, where: state.where }, () => {});
      if (!current()) return;
      state.effects.set(wanted, told);
    }
    draw();
  }
  const again = () => (state.reading ? working(follow) : undefined);
  const effectKey = () => `${state.position} ${state.where}`;
  const sent = ({ latent, kind, value, position }) => ({ latent, kind, positions: position, ...(kind === "ablate" ? {} : { value }) });

  function choose(position) {
    state.position = position;
    state.all = false;
    again();
  }
  // Where the lists stand above one another, what a change does would be out of sight.
  function showNext() {
    const [next, above] = [byId("next"), strip.closest(".card")];
    if (getComputedStyle(next).position === "sticky") return;
    const [box, top] = [next.getBoundingClientRect(), above.getBoundingClientRect().bottom + 12];
    if (box.bottom > innerHeight || box.top < top) scrollBy(0, box.top - top);
  }
  async function edit(latent, kind, value) {
    const position = state.where === "here" ? state.position : "all";
    const others = state.edits.filter((each) => each.latent !== latent || each.position !== position);
    state.edits = kind === null ? state.edits.filter((each) => each.latent !== latent) : [...others, { latent, kind, value, position }];
    await again();
    showNext();
  }

  // ---- drawing
  const card = (latent) => state.reading.cards[latent] ?? {};
  const code = (at, latent) => state.reading.tokens[at].latents.find((each) => each.latent === latent)?.code ?? 0;

  function sorted() {
    const rows = [...state.reading.tokens[state.position].latents];
    const effects = state.effects.get(effectKey())?.effects ?? [];
    const kl = new Map(effects.map((each) => [each.latent, each.kl]));
    const by = {
      activation: (row) => -Math.abs(row.code),
      rarity: (row) => card(row.latent).density ?? Infinity,
      effect: (row) => -(kl.get(row.latent) ?? -1),
    }[state.sort] ?? (() => 0);
    return rows.map((row) => ({ ...row, effect: effects.find((each) => each.latent === row.latent), by: by(row) }))
      .sort((a, b) => a.by - b.by || Math.abs(b.code) - Math.abs(a.code));
  }

  function meaning() {
    const told = state.effects.get(effectKey());
    const scope = state.where === "here" ? "at this token alone" : "at every token";
    if (state.sort === "rarity") return ["Sorted by rarity: latents active at the fewest tokens of the held-out text first."];
    if (state.sort !== "effect") return ["Sorted by activation: the largest first."];
    if (!told) return ["Ablating each latent alone, one run of the model each…"];
    const what = told.actual ? "the token that comes" : "the likeliest token";
    return [`Each ablated alone, ${scope}: KL of the next token in nats, and below it what the latent adds to the log-probability of ${what}, `, token(told.token.text), "."];
  }

  function draw() {
    const told = state.reading.tokens[state.position];
    byId("at").textContent = `at ${live.visible(told.text)}`;
    byId("meaning").replaceChildren(...meaning());
    results.dataset.sort = state.sort;
    for (const button of document.querySelectorAll("#sorts button")) {
      button.setAttribute("aria-pressed", String(button.dataset.sort === state.sort));
    }
    where.value = state.where;
    drawTokens();
    live.reveal(strip, state.buttons[state.position]);
    drawLatents(told);
    drawNext(told);
  }

  function drawTokens() {
    state.buttons.forEach((button, at) => {
      const value = state.open === null ? 0 : code(at, state.open);
      const strength = live.level(value, card(state.open).maximum || Math.abs(value));
      button.firstChild.className = strength ? `${value < 0 ? "n" : "a"}${strength}` : "";
      button.setAttribute("aria-pressed", String(at === state.position));
      const added = state.reading.tokens[at].added ? "put before the text, as where the run begins a document" : "";
      const part = state.reading.tokens[at].text ? "" : "a part of the character that ends in a later token";
      button.dataset.about = [added, part, state.open === null ? "" : `latent ${state.open}: ${number(value)}`].filter(Boolean).join("; ");
    });
    const kls = state.change ? state.change.tokens.map((each) => each.kl) : state.buttons.map(() => 0);
    live.underline(state.buttons, kls);
    const parts = [];
    if (state.open !== null) parts.push(`Coloured by the activation of latent ${state.open}.`);
    if (state.change) parts.push("Underlined by how much what follows changed.");
    byId("colours").textContent = parts.join(" ") || "Click a token to see what is active there, a latent to see where it is active.";
  }

  function drawLatents(told) {
    const rows = sorted();
    const most = Math.max(...rows.map((row) => Math.abs(row.code)), 0);
    const shown = state.all ? rows : rows.slice(0, SHOWN);
    const active = document.activeElement;
    const held = active?.closest?.("[data-latent]")?.dataset.latent;
    list.replaceChildren(...shown.map((row) => latentRow(row, most)));
    if (!rows.length) list.append(make("li", "waiting", "No latent of this dictionary is active here."));
    if (shown.length < rows.length) {
      const more = make("button", "small", `Show all ${rows.length}`, { type: "button" });
      more.addEventListener("click", () => { state.all = true; draw(); });
      list.append(make("li", "more", [more]));
    } else if (told.active > rows.length) {
      list.append(make("li", "waiting", `The strongest ${rows.length} of ${told.active} active latents.`));
    }
    const focused = active !== document.body && list.contains(active) ? active : list.querySelector(`[data-latent="${CSS.escape(held ?? "")}"] .latent-head`);
    focused?.focus({ preventScroll: true });
  }

  function latentRow(row, most) {
    const known = card(row.latent);
    const edits = state.edits.filter((each) => each.latent === row.latent);
    const words = known.explanation !== null && known.explanation !== undefined
      ? [make("bdi", "", live.visible(known.explanation, 300))]
      : known.words?.length ? known.words.map((each) => make("bdi", "token", live.visible(each, 20))) : ["not explained"];
    const bar = make("i", row.code < 0 ? "negative" : "");
    bar.style.width = `${most ? (100 * Math.abs(row.code)) / most : 0}%`;
    const effect = row.effect ? [`KL ${number(row.effect.kl)}`, make("small", "", `${row.effect.presence >= 0 ? "+" : ""}${number(row.effect.presence)}`)] : "…";
    const head = make("button", "latent-head", [
      make("span", "number", String(row.latent)),
      make("span", "words", words),
      make("span", "code", [make("span", "bar", [bar]), make("span", "value", number(row.code))]),
      make("span", "density", known.density === null || known.density === undefined ? "–" : percent(known.density), { title: "share of the tokens of the held-out text at which it is active" }),
      ...(state.sort === "effect" ? [make("span", "effect", effect)] : []),
      ...(edits.length ? [make("span", "tag strong edited", edits.map((each) => `${KINDS[each.kind]} ${each.value ?? ""}`).join(", "))] : []),
    ], { type: "button", "aria-expanded": String(state.open === row.latent) });
    head.addEventListener("click", () => { state.open = state.open === row.latent ? null : row.latent; draw(); });
    const item = make("li", "latent-row", [head], { "data-item": "", "data-latent": row.latent });
    if (state.open === row.latent) {
      // What was typed and not yet done outlives an answer that comes meanwhile.
      const key = JSON.stringify([row.latent, edits]);
      if (state.editor.key !== key) state.editor = { key, element: editor(row, known, edits) };
      item.append(state.editor.element);
    }
    return item;
  }

  function editor(row, known, edits) {
    const last = edits[edits.length - 1];
    const button = (words, act, name = "small") => {
      const made = make("button", name, words, { type: "button" });
      made.addEventListener("click", act);
      return made;
    };
    const amount = (kind, words, start) => {
      const input = make("input", "", [], { type: "number", step: "any", value: last?.kind === kind ? last.value : start, "aria-label": `${words}, of latent ${row.latent}` });
      const act = () => { if (Number.isFinite(input.valueAsNumber)) edit(row.latent, kind, input.valueAsNumber); };
      input.addEventListener("keydown", (event) => { if (event.key === "Enter") act(); });
      return make("span", "act", [button(words, act), input]);
    };
    const link = make("a", "", `Latent ${row.latent}`, { href: `/dictionary/${encodeURIComponent(state.dictionary)}/latent/${row.latent}` });
    const facts = [known.label ? `Best truth label: ${live.visible(known.label)}. ` : "", known.maximum ? `Largest activation ${number(known.maximum)}. ` : ""].join("");
    const undo = button("Undo", () => edit(row.latent, null));
    undo.disabled = !edits.length;
    return make("div", "editor", [
      make("div", "live-acts", [button("Ablate", () => edit(row.latent, "ablate", null)), amount("scale", "Scale by", 2), amount("set", "Set to", Number((known.maximum || row.code).toPrecision(3))), undo]),
      make("p", "note", [facts, link]),
    ]);
  }

  function drawNext(told) {
    const plain = { before: told.likely.map((each) => ({ ...each, before: each.probability, after: each.probability })), kl: 0,
      actual: told.actual && { ...told.actual, before: told.actual.probability, after: told.actual.probability } };
    live.comparison(byId("comparison"), state.change ? state.change.tokens[state.position] : plain, Boolean(state.change));
    byId("clear").disabled = !state.edits.length;
    const where = ({ position }) => (position === "all" ? "at every token" : `at token ${position + 1}`);
    byId("edits").textContent = state.edits.length
      ? `Changed: ${state.edits.map((e) => `${e.latent} ${KINDS[e.kind]} ${e.value ?? ""}`.trim() + ` ${where(e)}`).join("; ")}.`
      : "Nothing is changed: open a latent to change it.";
  }

  // ---- events
  function start(restored) {
    state = restored;
    dictionary.value = state.dictionary;
    text.value = state.text;
    if (state.text) read();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    // What was done to a latent of another dictionary, or at a token of another text, means nothing here.
    const edits = dictionary.value === state.dictionary ? state.edits.filter((each) => each.position === "all" || text.value === state.text) : [];
    const position = text.value === state.text ? state.position : null;
    state = { ...fresh(), dictionary: dictionary.value, text: text.value, position, sort: state.sort, where: state.where, edits };
    history.pushState(null, "", address());
    read();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  dictionary.addEventListener("change", () => { if (state.text && text.value === state.text) form.requestSubmit(); });
  for (const button of document.querySelectorAll("#sorts button")) {
    button.addEventListener("click", () => { state.sort = button.dataset.sort; again(); });
  }
  where.addEventListener("change", () => { state.where = where.value; again(); });
  byId("clear").addEventListener("click", () => { state.edits = []; again(); });
  window.addEventListener("popstate", () => start(fromAddress()));
  start(fromAddress());
})();
